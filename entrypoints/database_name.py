"""Whether the system takes the name of a database file."""

from pathlib import Path

LONGEST_END = "-alive-" + "0" * 32
"""Of the names of the files beside the database; the digits are those of an id."""


def fault(database: Path) -> str:
    """Return why there can be no file of that name, or none of those beside it; empty if none."""
    try:
        (database.parent / f"{database.name}{LONGEST_END}").stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""
