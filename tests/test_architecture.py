"""The shape of the code: what importing does, and what may import what."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("domain", "adapters", "entrypoints")
SOURCES = sorted(
    path
    for layer in LAYERS
    for path in (ROOT / layer).rglob("*.py")
    if path.parent.name != "migrations"
)
FOREIGN = (
    "click dotenv filelock flask genai_prices gevent gunicorn h11 httpx2 injector limits openai"
    " peewee pydantic"
)


def run(script: str) -> None:
    """Run a script in a fresh interpreter; fail with what it said."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def imports(path: Path) -> list[tuple[int, str]]:
    """Return the level and the name of every absolute and relative import of a module."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def test_the_domain_imports_without_any_third_party_package() -> None:
    run(
        "import sys\n"
        f"for name in {FOREIGN.split()!r}: sys.modules[name] = None\n"
        "import chatport.domain\n"
    )


def test_importing_a_module_does_nothing() -> None:
    places = [path.relative_to(ROOT).with_suffix("") for path in SOURCES]
    names = [".".join(("chatport", *place.parts)) for place in places]
    names = [name.removesuffix(".__init__") for name in names]
    run(
        "import importlib, os, sys, threading\n"
        "sys.dont_write_bytecode = True\n"
        "forbidden = {'socket.connect', 'socket.bind', 'subprocess.Popen', 'sqlite3.connect',\n"
        "             'os.fork', 'tempfile.mkstemp', 'socket.getaddrinfo'}\n"
        "def audit(event, arguments):\n"
        "    if event in forbidden: raise AssertionError(event)\n"
        "    if event == 'open' and set(str(arguments[1])) & set('wax+'):\n"
        "        raise AssertionError(arguments)\n"
        "sys.addaudithook(audit)\n"
        "environment = dict(os.environ)\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert dict(os.environ) == environment\n"
    )


def test_our_modules_read_the_environment_in_one_place_only() -> None:
    reading = re.compile(r"\bos\.(environ|getenv)|from os import")
    readers = [path.name for path in SOURCES if reading.search(path.read_text())]
    assert readers == ["cli_exits.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_layers_are_imported_by_their_full_name_and_siblings_relatively(path: Path) -> None:
    for level, name in imports(path):
        top = name.split(".")[0]
        assert not (level == 0 and top in LAYERS), f"import chatport.{name} instead"
        own = f"chatport.{path.parent.name}"
        assert not (level == 0 and name.startswith(own)), "use a relative import inside a layer"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_module_holds_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_commands_that_need_no_server_import_none() -> None:
    run(
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from chatport.entrypoints.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "servers = {'flask', 'gevent', 'openai', 'peewee', 'limits', 'pydantic'}\n"
        "loaded = servers & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )


def test_the_wiring_imports_only_what_is_chosen() -> None:
    run(
        "import sys, chatport.entrypoints.wiring\n"
        "assert not {'openai', 'peewee', 'flask', 'gevent'} & set(sys.modules)\n"
    )


def test_importing_the_domain_loads_the_standard_library_and_nothing_else() -> None:
    run(
        "import sys\n"
        "before = set(sys.modules)\n"
        "import chatport.domain\n"
        "ours = {'chatport', 'chatport.domain'}\n"
        "foreign = {name for name in set(sys.modules) - before - ours\n"
        "    if name.split('.')[0] not in sys.stdlib_module_names\n"
        "    and not name.startswith('chatport.domain.')}\n"
        "assert not foreign, foreign\n"
    )
