"""What others wrote and chatport runs: all of it is named, pinned, and shipped as it is here."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAYERS = ("domain", "adapters", "entrypoints")

DIRECT = {
    "click": "the commands",
    "filelock": "the locks beside the database, on every platform",
    "flask": "the routes",
    "genai-prices": "what models cost",
    "gevent": "thousands of calls at once",
    "gunicorn": "the server's processes",
    "h11": "the provider's HTTP/1.1, read strictly",
    "httpx2": "the connections to the provider, which openai uses too",
    "injector": "the wiring",
    "limits": "rate limits",
    "openai": "the provider",
    "peewee": "the database",
    "pydantic": "requests are checked, and described",
    "python-dotenv": "the file .env",
    "typing-extensions": "types that Python 3.11 does not know yet",
    "waitress": "the server on Windows",
}
"""Whoever adds one decides to trust one more author, and says here what it is for."""

MOST_ALONE = 10
"""Authors whom nobody else among them trusts: the others come with Flask and the provider's SDK
anyway, and are named because chatport imports them itself."""

MOST_LOCKED = 48
"""What is installed all together, for any platform. It was 44 when this was written."""

ENTRY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]*)(?:\[(?P<extras>[a-z0-9,-]+)\])?"
    r"==(?P<version>[0-9][0-9a-z.]*)(?: ; [^\\]+?)? \\\n"
    r"(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
    r"(?P<why>(?:    # .*\n)+)"
)
ELSEWHERE = re.compile(r"://|@|--(?:index|extra|find|trusted|editable)|^-|\bgit\+", re.MULTILINE)

PTH = {
    re.compile(r"(?:_)?chatport\.pth"): "the way to our own code",
    re.compile(r"_*editable_.*\.pth"): "the way to code of one's own, as other tools call it",
    re.compile(r"distutils-precedence\.pth"): "of setuptools, which is in older environments",
    re.compile(r"_virtualenv\.pth"): "of virtualenv, and of uv",
    re.compile(r"a1_coverage\.pth"): "of coverage, to measure processes",
    re.compile(r"gevent.*\.pth"): "of gevent's monkey patching",
}
"""Each line of such a file that begins with `import` is run whenever Python starts."""


def entries(lock: str) -> list[dict[str, str]]:
    return [found.groupdict("") for found in ENTRY.finditer(lock)]


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def name_of(requirement: str) -> str:
    found = re.match("[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub("[-_.]+", "-", found[0]).lower()


def requirements_of(name: str) -> list[str]:
    """Return what an installed package asks for; a package of another platform asks for nothing."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_file_is_of_a_pinned_package_with_its_hashes(name: str) -> None:
    assert ENTRY.sub("", text_of(name)) == ""
    assert len(entries(text_of(name))) > 40


@pytest.mark.parametrize(
    "line",
    [
        "flask>=3.1 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via x\n",
        "flask==3.1\n    # via x\n",
        "flask==3.1 \\\n    --hash=md5:" + "0" * 32 + "\n    # via x\n",
        "flask==3.1 \\\n    --hash=sha256:" + "0" * 63 + "\n    # via x\n",
        "flask==3.* \\\n    --hash=sha256:" + "0" * 64 + "\n    # via x\n",
        "flask @ https://x/y.whl \\\n    --hash=sha256:" + "0" * 64 + "\n    # via x\n",
        "--index-url https://x/\n",
        "-e .\n",
    ],
)
def test_a_line_that_is_not_pinned_would_be_found(line: str) -> None:
    assert ENTRY.sub("", line) != ""


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_names_no_place(name: str) -> None:
    assert ELSEWHERE.findall(text_of(name)) == []


@pytest.mark.parametrize(
    "line", ["--index-url x", "a @ file:///x", "-e .", "# from https://x", "--find-links x"]
)
def test_a_place_would_be_found(line: str) -> None:
    assert ELSEWHERE.search(f"a==1\n{line}\n")


def test_the_direct_dependencies_are_the_ones_that_were_chosen() -> None:
    assert {name_of(each) for each in PROJECT["project"]["dependencies"]} == set(DIRECT)
    assert "optional-dependencies" not in PROJECT["project"]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_few_packages_are_there_for_chatport_alone(platform: str) -> None:
    asked = [Requirement(each) for each in PROJECT["project"]["dependencies"]]
    here = {
        name_of(each.name)
        for each in asked
        if each.marker is None or each.marker.evaluate({"sys_platform": platform})
    }
    alone = {entry["name"] for entry in entries(text_of("requirements.lock")) if is_alone(entry)}
    assert {"flask", "openai"} <= alone & here
    assert {"click", "pydantic"} <= here - alone
    assert len(alone & here) <= MOST_ALONE


def is_alone(entry: dict[str, str]) -> bool:
    """Return whether nothing but chatport asks for a package."""
    return set(re.findall(r"# (?:via|  ) ?([a-z0-9-]+)", entry["why"])) == {"chatport"}


def test_all_that_is_asked_for_is_pinned() -> None:
    locked = {entry["name"] for entry in entries(text_of("requirements.lock"))}
    locked_dev = {entry["name"] for entry in entries(text_of("requirements-dev.lock"))}
    groups = PROJECT["dependency-groups"]
    assert {*DIRECT, *map(name_of, groups["build"])} <= locked
    assert {*map(name_of, groups["dev"])} <= locked_dev
    assert {*map(name_of, PROJECT["build-system"]["requires"])} <= locked


def test_a_package_that_is_asked_for_with_an_extra_is_pinned_with_it() -> None:
    """Else pip looks for its newest release, for which there is no hash, and installs nothing."""
    extras = {e["name"]: e["extras"] for e in entries(text_of("requirements-dev.lock"))}
    asked = [
        (name_of(requirement), found[1])
        for name in extras
        for requirement in requirements_of(name)
        if (found := re.match(r"[\w.-]+\s*\[([\w,-]+)\]", requirement))
        and "extra ==" not in requirement
        and name_of(requirement) in extras
    ]
    assert ("coverage", "toml") in asked
    assert [each for each in asked if extras[each[0]] != each[1]] == []


def test_what_is_tested_is_what_is_installed() -> None:
    run, test = (
        {(e["name"], e["version"], e["hashes"]) for e in entries(text_of(n))} for n in LOCKS
    )
    assert run <= test


def test_no_more_is_installed_than_was_thought() -> None:
    assert len(entries(text_of("requirements.lock"))) <= MOST_LOCKED


def test_nothing_unknown_runs_when_python_starts() -> None:
    places = {Path(place) for place in sys.path if Path(place).name.endswith("-packages")}
    found = {path.name for place in places for path in place.glob("*.pth")}
    assert places
    assert {name for name in found if not any(each.fullmatch(name) for each in PTH)} == set()
    assert not any(importlib.util.find_spec(each) for each in ("sitecustomize", "usercustomize"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return the wheel that is built of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


def test_the_wheel_holds_our_sources_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    sources = {
        f"chatport/{path.relative_to(ROOT).as_posix()}"
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*")
        if path.suffix in {".py", ".typed", ".html", ".css"}
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == sources


def test_the_wheel_asks_for_what_was_chosen(wheel: zipfile.ZipFile) -> None:
    [metadata] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    lines = wheel.read(metadata).decode().partition("\n\n")[0].splitlines()
    wanted = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist: ")]
    assert {name_of(each) for each in wanted} == set(DIRECT)


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """Return the bill of materials, as its program prints it."""
    done = subprocess.run([sys.executable, ROOT / "sbom.py"], capture_output=True, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_the_bill_of_materials_names_each_package_with_its_hashes(bill: dict[str, Any]) -> None:
    named = {
        (each["name"], each["version"]): {
            p["value"] for p in each["properties"] if p["name"] == "chatport:sha256"
        }
        for each in bill["components"]
    }
    assert named == {
        (each["name"], each["version"]): set(re.findall("[0-9a-f]{64}", each["hashes"]))
        for each in entries(text_of("requirements.lock"))
    }


def test_the_bill_of_materials_has_the_form_of_cyclonedx(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["version"] == PROJECT["project"]["version"]
    assert re.fullmatch("urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    for each in bill["components"]:
        assert each["purl"] == each["bom-ref"] == f"pkg:pypi/{each['name']}@{each['version']}"
    assert len({each["bom-ref"] for each in bill["components"]}) == len(bill["components"])
