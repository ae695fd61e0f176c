"""The door: who is asking."""

import hmac
import ipaddress
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from .admin_ports import KeyStore
from .allowance import Charge
from .callers import ANONYMOUS, Caller
from .errors import ChatportError, InvalidApiKey, RateLimited
from .keys import ApiKey, PresentedKey, parse_key
from .ports import Clock, LimitCounter
from .rules import Limit

HEADER = re.compile("bearer (cp_.*)", re.ASCII | re.IGNORECASE)
"""RFC 9110 compares the name of the scheme without regard to case."""

REMEMBERED_SECONDS = 2.0
"""A revoked key is refused by every process within 5 s; this leaves 3 for a slow request."""

REMEMBERED_KEYS = 1_024
"""Some 300 KB. With more keys in use at once, the oldest are looked up again."""

LOGIN_LIMIT = Limit(amount=20, window_seconds=60)
"""Failures of one address. A key has 256 random bits: this is against the noise, not the guess."""

LOGIN = "login"
"""The rule's name in refusals and statistics."""

NOBODYS_HASH = bytes(32)
"""Compared with where there is no such key. No secret is known to hash to it."""

IPV6_SITE_BITS = 64
"""Whoever has one IPv6 address has all of its /64 (RFC 6177)."""

LONGEST_ADDRESS = 64

T = TypeVar("T")


class Doorkeeper:
    """Lets callers in by their API keys.

    A good key always gets in, however often its address has failed before: many applications may
    share one address behind a NAT, and nobody must be able to lock the others out. The limit on
    failures only answers those who fail with 429 instead of 401, and keeps them out of the
    statistics, where each costs a commit.

    Args:
        keys: Where callers and their keys are looked up.
        counter: Counts failures by address.
        clock: Tells the time.
        open_without_keys: Let everybody in as ANONYMOUS while there never was a caller.
        refused: Counts a refusal for the operator, as `ConversationStore.count_refusal` does.
    """

    def __init__(
        self,
        keys: KeyStore,
        *,
        counter: LimitCounter,
        clock: Clock,
        open_without_keys: bool,
        refused: Callable[[str, str, datetime], None],
    ) -> None:
        self._keys = keys
        self._counter = counter
        self._clock = clock
        self._open_without_keys = open_without_keys
        self._refused = refused
        self._open_until = 0.0
        self._admissions = _Admissions()
        self._looks: _Looks[Caller | None] = _Looks()
        self._open_looks: _Looks[bool] = _Looks()

    def authenticate(self, authorization: str | None, address: str) -> Caller:
        """Return who is asking.

        A change to a caller, or to a key, is noticed within REMEMBERED_SECONDS.

        Args:
            authorization: The header of that name; None if there is none.
            address: Where the request comes from, as an IP address.

        Raises:
            InvalidApiKey: There is no good key; which of all the reasons, is not said.
            RateLimited: The same, from an address that has failed too often lately.
            StorageUnavailable: The keys cannot be read.
        """
        if self._is_open():
            return ANONYMOUS
        presented = _presented(authorization)
        caller = self._caller(presented) if presented is not None else None
        if caller is None:
            raise self._refusal(address)
        return caller

    def _is_open(self) -> bool:
        """Return whether there is no caller yet, and that is as it should be."""
        if not self._open_without_keys:
            return False
        if self._clock.monotonic() < self._open_until:
            return True
        return self._open_looks.one(None, self._is_still_open)

    def _is_still_open(self) -> bool:
        began = self._clock.monotonic()
        # Once there is a caller there always is one, since none is ever deleted.
        self._open_without_keys = self._keys.is_empty()
        self._open_until = began + REMEMBERED_SECONDS
        return self._open_without_keys

    def _caller(self, presented: PresentedKey) -> Caller | None:
        look = partial(self._look_again, presented)
        return self._remembered(presented) or self._looks.one(presented, look)

    def _look_again(self, presented: PresentedKey) -> Caller | None:
        return self._remembered(presented) or self._look_up(presented)

    def _remembered(self, presented: PresentedKey) -> Caller | None:
        admission = self._admissions.find(presented, self._clock.monotonic())
        if admission is not None and admission.key.is_good(self._clock.now()):
            return admission.caller
        return None

    def _look_up(self, presented: PresentedKey) -> Caller | None:
        began = self._clock.monotonic()
        key = self._proven(presented)
        if key is None:
            return None
        caller = self._keys.caller(key.caller)
        if caller is not None:
            until = began + REMEMBERED_SECONDS  # from before the look: it may be that old already
            self._admissions.keep(presented, _Admission(caller, key, until))
        return caller

    def _proven(self, presented: PresentedKey) -> ApiKey | None:
        """Return the key if it was proven and is good.

        It takes the same time whether the id or the secret is wrong, if the store does.
        """
        key = self._keys.key(presented.id)
        kept_hash = NOBODYS_HASH if key is None else key.secret_hash
        proven = hmac.compare_digest(presented.secret_hash, kept_hash)
        if not proven or key is None or not key.is_good(self._clock.now()):
            return None
        return key

    def _refusal(self, address: str) -> ChatportError:
        """Count a failure, and return what to answer."""
        charge = Charge(rule=LOGIN, key=_place(address), limit=LOGIN_LIMIT)
        (allowance,) = self._counter.take([charge])
        if not allowance.admitted:
            return RateLimited(LOGIN, str(LOGIN_LIMIT), allowance.reset_seconds)
        with suppress(ChatportError):  # whoever has no key learns nothing of our database
            self._refused(ANONYMOUS.name, LOGIN, self._clock.now())
        return InvalidApiKey()


class _Admission(NamedTuple):
    """That a key was good, and for whom."""

    caller: Caller
    key: ApiKey
    until: float


class _Admissions:
    """Remembers the keys that were good a moment ago, by their hashes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: OrderedDict[PresentedKey, _Admission] = OrderedDict()

    def find(self, presented: PresentedKey, now: float) -> _Admission | None:
        """Return what is remembered of a key at this time of the monotonic clock."""
        with self._lock:
            admission = self._by_key.get(presented)
        return admission if admission is not None and now < admission.until else None

    def keep(self, presented: PresentedKey, admission: _Admission) -> None:
        """Remember a key, and forget the oldest if there are too many."""
        with self._lock:
            self._by_key[presented] = admission
            self._by_key.move_to_end(presented)
            if len(self._by_key) > REMEMBERED_KEYS:
                self._by_key.popitem(last=False)


class _Looks(Generic[T]):
    """Lets one look for the others who want to know the same.

    Without, all who use a key look it up at once when it is forgotten: under load each waits for
    all before it, so long that it is forgotten again meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, _Look[T]] = {}

    def one(self, subject: Hashable, look: Callable[[], T]) -> T:
        """Return what `look` finds, or what another finds who is looking already.

        Raises:
            ChatportError: Why whoever looked could not: who waited for it has waited long enough.
        """
        while True:
            mine = _Look[T]()
            with self._lock:
                first = self._under_way.setdefault(subject, mine)
            if first is mine:
                break
            first.over.wait()
            if first.failure is not None:
                raise first.failure.with_traceback(None)
            for found in first.found:
                return found
        try:
            mine.found = (look(),)
        except ChatportError as error:
            mine.failure = error
            raise
        finally:
            del self._under_way[subject]
            mine.over.set()
        return mine.found[0]


class _Look(Generic[T]):
    """A look; once it is over, what it found, or why it failed, or neither where it was killed."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.found: tuple[T, ...] = ()
        self.failure: ChatportError | None = None


def _presented(authorization: str | None) -> PresentedKey | None:
    """Return the key of a header, or None if there is none."""
    found = HEADER.fullmatch(authorization or "")
    return parse_key(found[1]) if found else None


def _place(address: str) -> str:
    """Return what the failures of an address are counted by."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:LONGEST_ADDRESS]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), IPV6_SITE_BITS), strict=False))
