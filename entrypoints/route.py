"""What is known of a route: who may use it, what it reads, what it answers, and what goes wrong."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic import BaseModel

from chatport.domain import errors
from chatport.domain.errors import ChatportError

from . import answers
from .faults import STATUS

Kinds = tuple[type[ChatportError], ...]


class Access(Enum):
    """Who may use a route."""

    OPEN = "everybody"
    CALLER = "callers"
    ADMIN = "admins"


def tree(root: type[ChatportError]) -> Iterator[type[ChatportError]]:
    """Yield an error and all that are special cases of it."""
    return (kind for kind in STATUS if issubclass(kind, root))


STORAGE: Kinds = tuple(tree(errors.StorageUnavailable))
AT_THE_DOOR: Kinds = (
    errors.InvalidApiKey,
    errors.NotPermitted,
    errors.RateLimited,
    *STORAGE,
)
"""What goes wrong where a key is asked for; an address that fails too often is told to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route.

    Attributes:
        access: Who may use it. There is no default, so that no route is without a rule.
        name: The name of the operation, for generated clients.
        text: What there is to know beyond the summary.
        path_values: The names in the path, each with its schema.
        query: What it reads from the query string.
        body: What it reads from the body.
        example: A body, for trying it out.
        answer: What a good answer holds: a record, or a schema where it is no JSON of ours.
        content_type: Of the good answer.
        events: Of a streamed answer: the name of each event, and the record or the text in it.
        passed_on: The statuses with which a provider's own error may come.
        unready: The answer while the service should not be asked.
        error: How errors are written.
        faults: What can go wrong, beyond what can on every route, or on every one with a key.
        limited: It counts against the limits.
    """

    method: str
    path: str
    access: Access
    name: str
    group: str
    summary: str
    text: str
    path_values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    answer: type[BaseModel] | Mapping[str, Any]
    content_type: str = "application/json"
    events: tuple[tuple[str, type[BaseModel] | str], ...] = ()
    passed_on: tuple[int, ...] = ()
    unready: type[BaseModel] | None = None
    error: type[BaseModel] = answers.Error
    faults: Kinds = ()
    limited: bool = False

    def all_faults(self) -> Kinds:
        """Return what can go wrong on this route, the door included."""
        return self.faults if self.access is Access.OPEN else (*self.faults, *AT_THE_DOOR)
