"""How commands begin and end: their settings, their errors, their exit codes."""

import errno
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from chatport.domain.errors import (
    ChatportError,
    StorageCorrupt,
    StorageTooNew,
    StorageUnavailable,
)

from . import database_name
from .environment import load_environment
from .settings import Settings, SettingsError, printable
from .terminal import printable_text

EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_STORAGE = 3
EXIT_STORAGE_TOO_NEW = 5

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF}

LOOK_SECONDS = 0.5
"""For damage, before a command opens the database; a log of a million takes several."""

RESTORE = (
    "The database file is damaged; stop whatever uses it, move it and its -wal and -shm to another"
    " folder, copy a backup into its place, and start again."
)


class Program(click.Group):
    """The commands; an output that cannot be written ends them with one sentence."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command, and flush what it printed: Python would do so with a traceback."""
        _open_what_is_closed()
        _escape_what_cannot_be_shown()
        try:
            try:
                return super().main(*arguments, **options)
            finally:
                if not sys.stdout.closed:
                    sys.stdout.flush()
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            with suppress(OSError):
                sys.stdout.close()
            if error.errno == errno.EPIPE:  # whoever read it has left, and knows
                sys.exit(EXIT_FAILED)
            stop(EXIT_FAILED, f"the output cannot be written: {error.strerror}.")


def _open_what_is_closed() -> None:
    """Let a closed output (`>&-`) refuse what click would leave out, and what is said be lost.

    A closed input (`<&-`) is an empty one.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _escape_what_cannot_be_shown() -> None:
    """Let what a terminal's encoding lacks be printed as a code, as other unseen characters are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")


def own_environment() -> Mapping[str, str]:
    """Return the variables of this process, which are read nowhere else."""
    return os.environ


def load_settings(*, show: bool = False) -> Settings:
    """Read the settings, print them if asked to, and end the program if they are wrong."""
    environment, problems = load_environment(own_environment(), Path(".env"))
    if show:
        for name, value in printable(environment):
            click.echo(f"{name}={value}")
    try:
        settings = Settings.from_mapping(environment, problems)
    except SettingsError as error:
        _refuse(error.problems)
    if settings.database is not None and (found := database_name.fault(settings.database)):
        stop(EXIT_STORAGE, f"the database {settings.database} cannot be used: {found}.")
    return settings


def check_prices(settings: Settings) -> None:
    """End the program if the operator's own prices cannot be used."""
    from chatport.adapters import PriceFileError, read_prices  # noqa: PLC0415  # `--help` needs none

    try:
        if settings.prices is not None:
            read_prices(settings.prices)
    except PriceFileError as error:
        _refuse([f"CHATPORT_PRICES names {problem}" for problem in error.problems])


def _refuse(problems: list[str]) -> NoReturn:
    stop(EXIT_SETTINGS, "\n  ".join(["these settings cannot be used:", *problems]))


@contextmanager
def faults_end_the_program(database: Path | None = None) -> Iterator[None]:
    """End the program with one sentence and the fitting code when something cannot be done.

    Args:
        database: The file that the block opens, to be looked through first, for a moment: SQLite
            moves the -wal into it when it is closed, also into a damaged one.
    """
    try:
        if database is not None and database.is_file():
            from chatport.adapters import look_through  # noqa: PLC0415  # `--help` needs none

            look_through(database, LOOK_SECONDS)
        yield
    except StorageTooNew as error:
        stop(EXIT_STORAGE_TOO_NEW, str(error))
    except StorageCorrupt:
        stop(EXIT_STORAGE, RESTORE)
    except StorageUnavailable as error:
        stop(EXIT_STORAGE, str(error))
    except ChatportError as error:
        stop(EXIT_FAILED, str(error))
    except UnicodeEncodeError:
        stop(EXIT_FAILED, "an argument holds bytes that are not UTF-8.")


def stop(code: int, message: str) -> NoReturn:
    """Print one message to standard error, and exit."""
    click.echo(f"chatport: {printable_text(message)}", err=True)
    sys.exit(code)
