"""API keys: what they look like, what is kept of them, and how an operator gives them out."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from .callers import ANONYMOUS, Caller
from .errors import CallerNotFound, InvalidField

if TYPE_CHECKING:  # the port speaks of the records of this module
    from .admin_ports import KeyStore
    from .ports import Clock, NewId

KEY = re.compile(r"cp_(?P<id>[0-9a-f]{16})_(?P<secret>[A-Za-z0-9_-]{43})")
"""The secret is 32 random bytes in base64; the beginning lets scanners of code find lost keys."""

PAGE = 100


class Condition(StrEnum):
    """Whether a key opens anything, and if not, why."""

    GOOD = "good"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept: what proves it, and not itself.

    Attributes:
        id: Its public part, 16 hexadecimal digits; it may be shown and logged.
        caller: Who holds it.
        secret_hash: SHA-256 of its secret part, which has 256 random bits.
        expires_at: From then on it is no good; None for never.
        revoked_at: When it was revoked; None if it was not.
    """

    id: str
    caller: str
    secret_hash: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def condition(self, at: datetime) -> Condition:
        """Return what the key is worth at this time."""
        if self.revoked_at is not None:
            return Condition.REVOKED
        if self.expires_at is not None and at >= self.expires_at:
            return Condition.EXPIRED
        return Condition.GOOD

    def is_good(self, at: datetime) -> bool:
        """Return whether the key opens anything at this time."""
        return self.condition(at) is Condition.GOOD


class PresentedKey(NamedTuple):
    """A key that somebody showed: which one it claims to be, and what proves it.

    The secret itself is not in it, so that it can be remembered.
    """

    id: str
    secret_hash: bytes


def parse_key(text: str) -> PresentedKey | None:
    """Return what the text of a key says, or None if no key looks like this."""
    found = KEY.fullmatch(text)
    if found is None:
        return None
    return PresentedKey(found["id"], hash_secret(found["secret"]))


def hash_secret(secret: str) -> bytes:
    """Return what is kept of a secret. Nobody can guess 256 random bits, so it need not be slow."""
    return hashlib.sha256(secret.encode()).digest()


class Keys:
    """Gives out keys and takes them back, as the operator says.

    Args:
        store: Keeps callers and keys.
        clock: Tells the time.
        new_id: Returns 16 hexadecimal digits that were never returned before.
        new_secret: Returns 32 random bytes in the alphabet of URLs: 43 characters.
    """

    def __init__(
        self, store: "KeyStore", *, clock: "Clock", new_id: "NewId", new_secret: Callable[[], str]
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._new_secret = new_secret

    def create(self, caller: Caller, expires_at: datetime | None = None) -> str:
        """Add a caller, and return its first key, which nothing can tell again.

        Raises:
            InvalidField: The name is reserved or a key, a model has no possible name, or the key
                would have expired already.
            CallerExists: There is one of this name.
        """
        _check(caller)
        key, text = self._new_key(caller.name, expires_at)
        self._store.add(caller, key)
        return text

    def rotate(self, name: str, overlap: timedelta, expires_at: datetime | None = None) -> str:
        """Return a new key of a caller; its other keys work for the overlap, and no longer.

        A caller whose keys are all revoked or expired has a good key again.

        Args:
            name: The caller's.
            overlap: How long the other keys still work, at most; nothing brings one back.
            expires_at: When the new key expires; None for never.

        Raises:
            InvalidField: The overlap is negative, or the key would have expired already.
            CallerNotFound: There is none of this name.
        """
        if overlap < timedelta(0):
            raise InvalidField("overlap", "must not be negative")
        key, text = self._new_key(name, expires_at)
        self._store.rotate(key, old_until=key.created_at + overlap)
        return text

    def revoke(self, name: str) -> int:
        """Revoke all keys of a caller, and return how many were not revoked before.

        Raises:
            CallerNotFound: There is none of this name.
        """
        return self._store.revoke(name, self._clock.now())

    def revoke_key(self, key_id: str) -> None:
        """Revoke one key.

        Raises:
            CallerNotFound: There is no such key.
        """
        self._store.revoke_key(key_id, self._clock.now())

    def change(self, caller: Caller) -> None:
        """Replace what a caller may do; its keys stay.

        Raises:
            InvalidField: A model has no possible name.
            CallerNotFound: There is none of this name.
        """
        _check(caller)
        self._store.change(caller)

    def show(self, name: str) -> tuple[Caller, Sequence[ApiKey]]:
        """Return a caller and its keys, oldest first.

        Raises:
            CallerNotFound: There is none of this name.
        """
        caller = self._store.caller(name)
        if caller is None:
            raise CallerNotFound
        return caller, self._store.keys_of(name)

    def list(self) -> Iterator[tuple[Caller, Sequence[ApiKey]]]:
        """Yield every caller and its keys, in the order of their names."""
        after = ""
        while page := self._store.callers(after=after, limit=PAGE):
            for caller in page:
                yield caller, self._store.keys_of(caller.name)
            after = page[-1].name

    def _new_key(self, name: str, expires_at: datetime | None) -> tuple[ApiKey, str]:
        """Return a key to keep, and its text to give away."""
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise InvalidField("expires_at", "must be in the future")
        key_id, secret = self._new_id(), self._new_secret()
        key = ApiKey(
            id=key_id,
            caller=name,
            secret_hash=hash_secret(secret),
            created_at=now,
            expires_at=expires_at,
        )
        return key, f"cp_{key_id}_{secret}"


def _check(caller: Caller) -> None:
    """Refuse what no store can keep, and the name of those who have no key."""
    if caller.name == ANONYMOUS.name:
        raise InvalidField("name", "is reserved for requests without a key")
    if parse_key(caller.name) is not None:
        raise InvalidField("name", "must not be an API key, since names are no secret")
    for model in caller.models:
        if not model.strip() or "," in model or not model.isprintable():
            raise InvalidField("models", "must be names, without commas in them")
