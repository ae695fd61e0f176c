"""Callers and their keys in memory: for tests, and for embedding where nothing must be kept."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from chatport.domain.admin_ports import KeyStore
from chatport.domain.callers import Caller
from chatport.domain.errors import CallerExists, CallerNotFound
from chatport.domain.keys import ApiKey


class MemoryKeys(KeyStore):
    """Keeps callers and keys until the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: dict[str, Caller] = {}
        self._keys: dict[str, ApiKey] = {}

    def add(self, caller: Caller, key: ApiKey) -> None:
        """Keep a caller with its first key."""
        with self._lock:
            if caller.name in self._callers:
                raise CallerExists
            self._callers[caller.name] = caller
            self._keys[key.id] = key

    def change(self, caller: Caller) -> None:
        """Replace what is kept of a caller."""
        with self._lock:
            self._known(caller.name)
            self._callers[caller.name] = caller

    def rotate(self, key: ApiKey, *, old_until: datetime) -> None:
        """Keep a key, and let the caller's others expire."""
        with self._lock:
            self._known(key.caller)
            for old in self._of(key.caller):
                until = old_until if old.expires_at is None else min(old.expires_at, old_until)
                self._keys[old.id] = replace(old, expires_at=until)
            self._keys[key.id] = key

    def revoke(self, name: str, at: datetime) -> int:
        """Revoke a caller's keys."""
        with self._lock:
            self._known(name)
            live = [key for key in self._of(name) if key.revoked_at is None]
            for key in live:
                self._keys[key.id] = replace(key, revoked_at=at)
            return len(live)

    def revoke_key(self, key_id: str, at: datetime) -> None:
        """Revoke one key."""
        with self._lock:
            key = self._keys.get(key_id)
            if key is None:
                raise CallerNotFound
            if key.revoked_at is None:
                self._keys[key_id] = replace(key, revoked_at=at)

    def key(self, key_id: str) -> ApiKey | None:
        """Return a key."""
        return self._keys.get(key_id)

    def caller(self, name: str) -> Caller | None:
        """Return a caller."""
        return self._callers.get(name)

    def callers(self, *, after: str = "", limit: int = 100) -> Sequence[Caller]:
        """Return a page of callers."""
        with self._lock:
            names = sorted(name for name in self._callers if name > after)
            return [self._callers[name] for name in names[:limit]]

    def keys_of(self, name: str) -> Sequence[ApiKey]:
        """Return the keys of a caller, oldest first."""
        with self._lock:
            return sorted(self._of(name), key=lambda key: key.created_at)

    def is_empty(self) -> bool:
        """Return whether nothing was ever kept."""
        return not self._callers

    def _known(self, name: str) -> None:
        if name not in self._callers:
            raise CallerNotFound

    def _of(self, name: str) -> Iterator[ApiKey]:
        return (key for key in list(self._keys.values()) if key.caller == name)
