"""What nobody writes in this code, because it lets strangers in or keeps defects out of sight.

Each ban is seen to find what it must find, and to let pass what it must let pass. What ruff can
prove is left to ruff, as it is configured in `pyproject.toml`; `PROVED_BY_RUFF` says what that is.
Comparisons of secrets have their own rules in `test_secret_comparisons.py`, and the environment is
read in one place by `test_architecture.py`.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("domain", "adapters", "entrypoints")
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
PAGES = sorted(
    path
    for layer in LAYERS
    for path in (ROOT / layer).rglob("*")
    if path.suffix in {".html", ".js", ".css", ".svg"}
)
RUFF = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json"]

UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "marshal", "shelve", "jsonpickle"}
PROCESSES = {"subprocess", "multiprocessing", "pty", "ctypes"}
RUNNING = {"execute", "execute_sql", "executemany", "executescript", "SQL", "_run", "_look"}
"""What runs its first argument as SQL; the last two are our own names for `execute_sql`."""

CLOCKS = {
    *("time.time", "time.time_ns", "time.monotonic", "time.perf_counter", "time.sleep"),
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
}
Find = Callable[[ast.AST, list[str]], bool]


@dataclass(frozen=True, kw_only=True)
class Ban:
    """One thing that is not written.

    Attributes:
        find: Says whether a node, in a module with these lines, is such a thing.
        bad: Code that must be found.
        good: Code that must pass.
        allowed: Where it is written all the same, as `layer/module: code`, and why that is safe.
        layers: Where it is banned.
    """

    name: str
    find: Find
    bad: tuple[str, ...]
    good: tuple[str, ...]
    allowed: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = LAYERS


def dotted(node: ast.AST) -> str:
    """Return a name with its dots, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def imported(node: ast.AST) -> set[str]:
    """Return what a statement imports: each module, and each name in it."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        module = node.module or ""
        return {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return set()


def imports(names: set[str]) -> Find:
    """Return a search for imports of modules."""
    return lambda node, _: any(name.split(".")[0] in names for name in imported(node))


def calls(*names: str) -> Find:
    """Return a search for calls by these names, whatever stands before a name's last dot."""

    def find(node: ast.AST, _: list[str]) -> bool:
        called = dotted(node.func) if isinstance(node, ast.Call) else ""
        return called in names or called.rpartition(".")[2] in {n[1:] for n in names if n[0] == "."}

    return find


def runs_made_up_sql(node: ast.AST, _: list[str]) -> bool:
    """Look for SQL that is put together where it is run, of more than constants."""
    if not (isinstance(node, ast.Call) and node.args):
        return False
    is_run = dotted(node.func).rpartition(".")[2] in RUNNING
    return is_run and any(map(_is_put_together, ast.walk(node.args[0])))


def _is_put_together(node: ast.AST) -> bool:
    if isinstance(node, ast.FormattedValue):
        names = [each for each in ast.walk(node.value) if isinstance(each, ast.Name)]
        return not names or not all(name.id.isupper() for name in names)
    return isinstance(node, ast.Call) or (isinstance(node, ast.BinOp) and not _is_constant(node))


def _is_constant(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_constant(node.left) and _is_constant(node.right)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper())


def hides_an_error(node: ast.AST, lines: list[str]) -> bool:
    """Look for what catches everything, neither raises nor says why not."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    blind = any(k is None or dotted(k) in {"Exception", "BaseException"} for k in kinds)
    raises = any(isinstance(each, ast.Raise) for part in node.body for each in ast.walk(part))
    _, hash_sign, reason = lines[node.lineno - 1].rpartition("#")
    reason = reason if hash_sign else ""
    return blind and not raises and len(reason.split()) < 3


def trusts_anybody(node: ast.AST, _: list[str]) -> bool:
    """Look for TLS whose other side proves nothing; ruff knows only some libraries."""
    if isinstance(node, ast.keyword):
        return node.arg in {"verify", "check_hostname"} and _is(node.value, False)
    if isinstance(node, ast.Assign):
        names = {dotted(target).rpartition(".")[2] for target in node.targets}
        return bool(names & {"check_hostname", "verify"}) and _is(node.value, False)
    return dotted(node).endswith("CERT_NONE")


def _is(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def reads_a_clock(node: ast.AST, _: list[str]) -> bool:
    """Look for the time that is not the clock's of the port."""
    if imported(node) & CLOCKS:
        return True
    return isinstance(node, ast.Call) and ".".join(dotted(node.func).split(".")[-2:]) in CLOCKS


def debugs(node: ast.AST, _: list[str]) -> bool:
    """Look for Flask's debugger, which runs what anybody types."""
    if isinstance(node, ast.keyword):
        return node.arg in {"debug", "use_debugger", "evalex"} and not _is(node.value, False)
    return isinstance(node, ast.Assign) and any(
        dotted(target).endswith(".debug") for target in node.targets
    )


SQL_OF_CONSTANTS = "pieces of SQL of this module and `?`, one for each value"

BANS = (
    Ban(
        name="running text as code",
        find=calls("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
        bad=("eval(x)", "exec('1')", "compile(x, '', 'exec')", "__import__(x)"),
        good=("re.compile(x)", "evaluate(x)", "self.exec", "import compileall"),
    ),
    Ban(
        name="unpickling, by import",
        find=imports(UNPICKLING),
        bad=("import pickle", "from pickle import loads", "import marshal as m", "import shelve"),
        good=("import json", "from .pickle import x", "import pickletools"),
    ),
    Ban(
        name="other processes and foreign code, by import",
        find=imports(PROCESSES),
        bad=("import subprocess", "from multiprocessing import Process", "import ctypes"),
        good=("import threading", "import sub"),
    ),
    Ban(
        name="templates of text",
        find=calls(".render_template_string", ".from_string", "Template", "jinja2.Template"),
        bad=("render_template_string(x)", "flask.render_template_string('')", "env.from_string(x)"),
        good=("render_template('docs.html')",),
    ),
    Ban(
        name="SQL that is put together where it is run",
        find=runs_made_up_sql,
        bad=(
            "db.execute_sql(f'SELECT {name}')",
            "db.execute('SELECT ' + name)",
            "db.execute('SELECT %s' % name)",
            "db.executescript('SELECT {}'.format(name))",
            "peewee.SQL(''.join(names))",
            "self._run(f'DELETE FROM {table()}')",
            "db.execute(f'{1}{user}')",
        ),
        good=(
            "db.execute_sql('SELECT ?', [name])",
            "db.execute('SELECT ' 'a')",
            "db.execute(f'PRAGMA busy_timeout = {SECONDS * 1000}')",
            "db.execute('SELECT ' + COLUMNS)",
            "db.execute_sql(query.sql, query.values(row))",
            "query.execute()",
            "print(f'SELECT {name}')",
        ),
        allowed={
            "adapters/sqlite_purge.py: MEASURE.format(wanted=wanted)": SQL_OF_CONSTANTS,
            "adapters/sqlite_purge.py: statement.format(holes=', '.join('?' * len(taken)))": (
                SQL_OF_CONSTANTS
            ),
            "adapters/sqlite_ledger.py: _with_rows(OPEN_ACCOUNTS, len(opened), 8)": (
                SQL_OF_CONSTANTS
            ),
            "adapters/sqlite_ledger.py: _with_rows(READ, len(wanted), 3)": SQL_OF_CONSTANTS,
        },
        layers=("adapters",),  # import-linter keeps databases out of the others
    ),
    Ban(
        name="errors that nobody hears of",
        find=hides_an_error,
        bad=(
            "try: x()\nexcept: pass",
            "try: x()\nexcept Exception: pass",
            "try: x()\nexcept (ValueError, BaseException) as e: y(e)",
            "try: x()\nexcept Exception: y()  # noqa: BLE001",
        ),
        good=(
            "try: x()\nexcept ValueError: pass",
            "try: x()\nexcept BaseException:\n y()\n raise",
            "try: x()\nexcept Exception:  # one broken check must not hide the others\n y()",
        ),
    ),
    Ban(
        name="TLS that trusts anybody",
        find=trusts_anybody,
        bad=(
            "httpx2.Client(verify=False)",
            "context.check_hostname = False",
            "context.verify_mode = ssl.CERT_NONE",
        ),
        good=("httpx2.Client(verify=True)", "verify(False)", "ssl.CERT_REQUIRED"),
    ),
    Ban(
        name="the real time in the domain",
        find=reads_a_clock,
        bad=(
            "time.time()",
            "datetime.now(UTC)",
            "datetime.datetime.now(UTC)",
            "from time import monotonic",
            "date.today()",
        ),
        good=("self._clock.now()", "clock.monotonic()", "datetime(2026, 1, 1)", "time.gmtime(0)"),
        layers=("domain",),
    ),
    Ban(
        name="numbers that can be guessed, by import",
        find=imports({"random"}),
        bad=("import random", "from random import choice"),
        good=("import secrets", "from chatport.adapters import random_id"),
        allowed={
            "domain/upstreams.py: import random": "a wait; nobody gains from guessing it",
            "entrypoints/overload.py: import random": "a wait; nobody gains from guessing it",
        },
    ),
    Ban(
        name="checks that `python -O` leaves out",
        find=lambda node, _: isinstance(node, ast.Assert),
        bad=("assert user.is_admin", "assert x, 'y'"),
        good=("if not x:\n raise ValueError", "self.assertion"),
        allowed={
            "adapters/sqlite_ledger.py: assert done == 1, "
            "'what has room, by the same numbers, is reserved'": "cannot happen in a transaction",
        },
    ),
    Ban(
        name="the debugger",
        find=debugs,
        bad=("app.run(debug=True)", "app.debug = True", "run_simple(use_debugger=on)"),
        good=("app.run(debug=False)", "logger.debug('x')"),
    ),
)

PROVED_BY_RUFF = {
    "S102": "exec('1')",
    "S301": "pickle.loads(x)",
    "S302": "marshal.loads(x)",
    "S307": "eval('1')",
    "S501": "requests.get('x', verify=False, timeout=1)",
    "S506": "yaml.load('x')",
    "S602": "subprocess.run('x', shell=True)",
    "S605": "os.system('x')",
    "S306": "tempfile.mktemp()",
    "S311": "random.random()",
    "S323": "ssl._create_unverified_context()",
    "S324": "hashlib.md5(b'')",
    "S608": "q = f'SELECT a FROM t WHERE b = {x}'",
    "S701": "jinja2.Environment()",
    "S704": "markupsafe.Markup(f'{x}')",
    "T100": "breakpoint()",
    "T201": "print('x')",
    "G002": "logging.getLogger('x').info('%s' % x)",
    "G003": "logging.getLogger('x').info('a' + x)",
    "G004": "logging.getLogger('x').info(f'{x}')",
    "DTZ003": "datetime.datetime.utcnow()",
    "DTZ005": "datetime.datetime.now()",
    "DTZ006": "datetime.datetime.fromtimestamp(1)",
    "E722": "try:\n    x()\nexcept:\n    y()",
    "BLE001": "try:\n    x()\nexcept Exception:\n    y()",
    "PGH003": "z = 1  # type: ignore",
    "PGH004": "z = 1  # noqa",
}
MODULES = (
    "requests, pickle, marshal, yaml, subprocess, os, tempfile, random, ssl, hashlib, jinja2,"
    " markupsafe, logging, datetime"
)

IN_PAGES = {
    "HTML out of text": re.compile(r"\b(?:inner|outer)HTML\b|insertAdjacentHTML|document\.write"),
    "text as code": re.compile(r"\beval\s*\(|new\s+Function\b|javascript:|setTimeout\s*\(\s*['\"]"),
    "a script, or code in an attribute": re.compile(
        r"<script|\son[a-z]+\s*=\s*['\"]", re.IGNORECASE
    ),
    "what is not escaped": re.compile(r"\|\s*safe\b|autoescape\s+false", re.IGNORECASE),
    "what is loaded from elsewhere": re.compile(
        r"(?:src|srcset)\s*=\s*['\"]?(?:https?:)?//|@import|url\(\s*['\"]?(?:https?:)?//"
        r"|<link[^>]+href\s*=\s*['\"](?:https?:)?//",
        re.IGNORECASE,
    ),
}
BAD_PAGES = {
    "HTML out of text": ["x.innerHTML = y", "a.insertAdjacentHTML('x', y)", "document.write(y)"],
    "text as code": ["eval (x)", "new Function(x)", "<a href='javascript:x'>", "setTimeout('x')"],
    "a script, or code in an attribute": ["<script>", "<p onclick='x'>", '<SVG onload="x">'],
    "what is not escaped": ["{{ x | safe }}", "{{ x|safe }}", "{% autoescape false %}"],
    "what is loaded from elsewhere": [
        "<img src='//x'>",
        '<link rel="stylesheet" href="https://x">',
        "@import 'x'",
        "url(https://x)",
    ],
}
GOOD_PAGE = """<p class="only">{{ x }} safe, innermost; <a href="https://x">on = 1</a></p>
<link rel="stylesheet" href="docs.css"> {{ x | default(1) }} url(#here)"""


@cache
def parsed(code: str) -> tuple[list[ast.AST], list[str]]:
    """Return all nodes and all lines of a module."""
    return list(ast.walk(ast.parse(code))), code.splitlines()


def hits(ban: Ban, code: str) -> Iterator[str]:
    """Yield each thing in a module that a ban finds, as code."""
    nodes, lines = parsed(code)
    for node in nodes:
        if ban.find(node, lines):
            argument = node.args[0] if ban.find is runs_made_up_sql else node  # type: ignore[attr-defined]  # a call
            yield ast.unparse(argument)


each_ban = pytest.mark.parametrize("ban", BANS, ids=lambda ban: ban.name)


@each_ban
def test_nobody_writes_what_is_banned(ban: Ban) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {hit}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ban.layers
        for hit in hits(ban, path.read_text())
    }
    assert found == set(ban.allowed)  # what is allowed and gone is taken from the list too
    assert all(ban.allowed.values())


@each_ban
def test_a_ban_finds_what_it_must_find(ban: Ban) -> None:
    assert [code for code in ban.bad if not list(hits(ban, code))] == []


@each_ban
def test_a_ban_lets_pass_what_it_must_let_pass(ban: Ban) -> None:
    assert [code for code in ban.good if list(hits(ban, code))] == []


@pytest.mark.parametrize("name", IN_PAGES)
def test_no_page_holds_what_is_banned(name: str) -> None:
    assert [path.name for path in PAGES] == ["docs.css", "docs.html"]
    assert [path.name for path in PAGES if IN_PAGES[name].search(path.read_text())] == []


@pytest.mark.parametrize("name", IN_PAGES)
def test_a_ban_in_pages_finds_what_it_must_find_and_no_more(name: str) -> None:
    assert [page for page in BAD_PAGES[name] if not IN_PAGES[name].search(page)] == []
    assert IN_PAGES[name].search(GOOD_PAGE) is None


def ruffs(*arguments: str, code: str = "") -> set[str]:
    """Return the rules that ruff, configured as here, sees broken."""
    done = subprocess.run(
        [*RUFF, *arguments], input=code, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    return {found["code"] for found in json.loads(done.stdout)}


def test_ruff_is_configured_to_prove_its_part() -> None:
    code = "\n".join([f"import {MODULES}", *PROVED_BY_RUFF.values()])
    found = ruffs("--stdin-filename=domain/x.py", "-", code=code)
    assert set(PROVED_BY_RUFF) - found == set()
    assert ruffs("--stdin-filename=domain/x.py", "-", code='"""Nothing."""\n') == set()


def test_ruff_finds_nothing_of_its_part_in_our_code() -> None:
    assert ruffs("--select", ",".join(PROVED_BY_RUFF), *LAYERS) == set()


EXCUSE = re.compile(r"#\s*noqa:?\s*(?P<rules>[A-Z0-9, ]*)(?P<reason>.*)")


def unexcused(code: str) -> list[str]:
    """Return the lines that break a rule of security, and do not say why."""
    lines = []
    for line in code.splitlines():
        excuse = EXCUSE.search(line)
        if excuse and re.search(r"\b(?:S\d|BLE|G0|DTZ|T20)", excuse["rules"]):
            reason = excuse["reason"].strip("# ")
            lines += [] if reason else [line]
    return lines


def test_whoever_breaks_a_rule_of_security_says_why() -> None:
    assert [line for path in SOURCES for line in unexcused(path.read_text())] == []


def test_an_excuse_without_a_reason_is_found() -> None:
    assert unexcused("x()  # noqa: S102\ny()  # noqa: S102, BLE001  #\n") != []
    assert len(unexcused("x()  # noqa: S102\ny()  # noqa: BLE001")) == 2
    assert unexcused("x()  # noqa: S102  # its text is ours\ny()  # noqa: PLC0415") == []
