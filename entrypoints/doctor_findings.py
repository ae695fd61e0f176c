"""What a check is, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .doctor_installation import Installation


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it; neither ever holds a secret."""

    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
        id: Stays the same over versions, such as `storage.synchronous`.
        look: Returns the finding; raises `Skip` where there is nothing to look at.
    """

    id: str
    title: str
    look: "Callable[[Installation], Finding]"


class Skip(Exception):
    """There is nothing that a check could look at; the message says why."""


def ok(found: str) -> Finding:
    """Return that all is well."""
    return Finding(Level.OK, found)


def warning(found: str, advice: str) -> Finding:
    """Return what works but should be otherwise."""
    return Finding(Level.WARNING, found, advice)


def error(found: str, advice: str) -> Finding:
    """Return what will not work, or loses or tells what it must not."""
    return Finding(Level.ERROR, found, advice)
