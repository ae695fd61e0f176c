"""A copy of chatport from which a guard can be taken, and the tests that are run there.

Each run is a fork of one process that has imported the libraries, but nothing of chatport: what
takes a second is done once.
"""

import gc
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from _pytest.config import default_plugins

from .table import Guard

ROOT = Path(__file__).parents[2]
LAYERS = ("domain", "adapters", "entrypoints")
SECONDS = 180
OPTIONS = (
    *("-x", "-q", "--no-header", "--tb=line", "--assert=plain"),
    *("-pno:cacheprovider", "-ppytest_mock"),
)
LIBRARIES = (
    *("click.testing", "dotenv", "encodings.idna", "filelock", "flask.testing", "genai_prices"),
    *("h11", "httpx2", "hypothesis", "injector", "limits", "openai", "pdb", "peewee"),
    *("playhouse.migrations", "playhouse.sqlite_ext", "pydantic", "tomllib"),
    *("werkzeug.middleware.proxy_fix",),
    *("pytest", "pytest_mock", "unittest.mock", *(f"_pytest.{name}" for name in default_plugins)),
)

ONE_FAILED = re.compile(r"^1 failed\b(?!.*\berror)", re.MULTILINE)
"""A fixture that breaks has the same exit code as a test that fails."""

BROKEN = re.compile(r": (Name|Import|ModuleNotFound|UnboundLocal|Syntax|Indentation)Error\b")
"""What takes more from the code than its guard is caught by any test."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of tests has ended.

    Attributes:
        code: Of pytest; None if it had to be killed.
        printed: What pytest said.
    """

    code: int | None
    printed: str

    @property
    def passed(self) -> bool:
        """Return whether all tests passed, and there were some."""
        return self.code == pytest.ExitCode.OK

    @property
    def caught(self) -> bool:
        """Return whether a test has failed, by what it tests."""
        failed = self.code == pytest.ExitCode.TESTS_FAILED and ONE_FAILED.search(self.printed)
        return bool(failed) and not BROKEN.search(self.printed)


class Copy:
    """Chatport and its tests in a folder of their own, linked as by an editable install."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seconds = count(1)
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([*LIBRARIES])
        for part in (*LAYERS, "tests"):
            shutil.copytree(ROOT / part, folder / part)
        shutil.copy2(ROOT / "pyproject.toml", folder)
        links = folder / ".links" / "chatport"
        links.mkdir(parents=True)
        for layer in LAYERS:
            (links / layer).symlink_to(folder / layer)

    def run(self, *tests: str) -> Outcome:
        """Run tests, named by their ids below `tests/`, until one fails."""
        printed = self._folder / "printed"
        printed.touch()
        process = self._forks.Process(
            target=_run, args=(self._folder, printed, [f"tests/{test}" for test in tests])
        )
        process.start()
        process.join(SECONDS)
        code = process.exitcode
        if code is None and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)  # with what its tests have started
            process.join()
        return Outcome(code, printed.read_text())

    @contextmanager
    def without(self, guard: Guard) -> Iterator[None]:
        """Take the guard out for as long as the block lasts."""
        path = self._folder / guard.file
        code, seen = path.read_text(), path.stat()
        path.write_text(removed(guard, code))
        own_second = seen.st_mtime_ns + next(self._seconds) * 10**9
        os.utime(path, ns=(seen.st_atime_ns, own_second))  # by which what was compiled is known
        try:
            yield
        finally:
            path.write_text(code)
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def removed(guard: Guard, code: str) -> str:
    """Return the code without its guard."""
    assert code.count(guard.old) == 1, f"{guard.file} has moved on: see tests/guards/table.py"
    mutated = code.replace(guard.old, guard.new)
    compile(mutated, guard.file, "exec")
    return mutated


def _run(folder: Path, printed: Path, tests: list[str]) -> None:
    os.setsid()
    gc.freeze()  # pytest collects garbage at its end: but not that of the libraries
    gc.disable()  # until the tests are collected
    links = str(folder / ".links")
    sys.path.insert(0, links)
    os.environ.update(PYTHONPATH=links, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    for name in [name for name in os.environ if name.startswith(("PYTEST_XDIST", "PYTEST_ADD"))]:
        del os.environ[name]
    os.chdir(folder)
    with printed.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    own = f"--basetemp={folder / 'tmp'}"  # the usual one is tidied by all runs at once
    sys.exit(int(pytest.main([*OPTIONS, own, *tests])))
