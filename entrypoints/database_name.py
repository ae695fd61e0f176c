"""Whether the system takes the name of a database file."""

from contextlib import suppress
from pathlib import Path

LONGEST_END = "-alive-" + "0" * 32
"""Of the names of the files beside the database; the digits are those of an id."""

GONE = "the current folder was deleted"


def current_folder() -> Path | None:
    """Return the folder that we are in; None if it is there no more."""
    with suppress(FileNotFoundError):
        return Path.cwd()
    return None


def fault(database: Path) -> str:
    """Return why there can be no file of that name, or none of those beside it; empty if none."""
    if not database.is_absolute() and current_folder() is None:
        return GONE
    try:
        (database.parent / f"{database.name}{LONGEST_END}").stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""
