"""What looking after the service asks of the outside: keys and who holds them, usage, refusals."""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from .callers import Caller
from .keys import ApiKey
from .usage import Refusal, RefusalQuery, UsageQuery, UsageRow


class KeyStore(Protocol):
    """Keeps callers and their keys. Each method is one atomic, durable operation.

    Every method may be called from several threads at once, and raises StorageUnavailable when it
    cannot do its work. A caller is never deleted: what it has stored stays its own.
    """

    @abstractmethod
    def add(self, caller: Caller, key: ApiKey) -> None:
        """Add a caller with its first key.

        Raises:
            CallerExists: There is one of this name. Nothing was written.
        """

    @abstractmethod
    def change(self, caller: Caller) -> None:
        """Replace all that is kept of a caller but its keys.

        Raises:
            CallerNotFound: There is none of this name.
        """

    @abstractmethod
    def rotate(self, key: ApiKey, *, old_until: datetime) -> None:
        """Add a key to `key.caller`; its other keys expire at `old_until`, if not sooner.

        Raises:
            CallerNotFound: There is none of this name. Nothing was written.
        """

    @abstractmethod
    def revoke(self, name: str, at: datetime) -> int:
        """Revoke every key of a caller that was not revoked, and return how many they were.

        Raises:
            CallerNotFound: There is none of this name.
        """

    @abstractmethod
    def revoke_key(self, key_id: str, at: datetime) -> None:
        """Revoke one key; one that is revoked stays as it is.

        Raises:
            CallerNotFound: There is no such key.
        """

    @abstractmethod
    def key(self, key_id: str) -> ApiKey | None:
        """Return a key, whatever its condition, by one look into an index."""

    @abstractmethod
    def caller(self, name: str) -> Caller | None:
        """Return a caller, or None."""

    @abstractmethod
    def callers(self, *, after: str = "", limit: int = 100) -> Sequence[Caller]:
        """Return up to `limit` callers with names after this one, in the order of their names."""

    @abstractmethod
    def keys_of(self, name: str) -> Sequence[ApiKey]:
        """Return the keys of a caller, oldest first; none if there is no such caller."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Return whether there never was a caller."""


class UsageLog(Protocol):
    """Tells what was used and what was refused. It outlives the exchanges that are erased."""

    @abstractmethod
    def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return what was used, the dearest first; of days, the newest first.

        Raises:
            StorageUnavailable: The log cannot be read.
        """

    @abstractmethod
    def refusals(self, query: RefusalQuery) -> Sequence[Refusal]:
        """Return what was refused, the newest minute first.

        Raises:
            StorageUnavailable: The log cannot be read.
        """
