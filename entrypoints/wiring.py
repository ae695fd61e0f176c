"""What is put together from what. The only place that knows injector."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from injector import Injector, Module, provider, singleton

from chatport.adapters import SystemClock, WindowTable, random_id, random_key_id, random_secret
from chatport.domain.admin_ports import KeyStore, UsageLog
from chatport.domain.chat import ChatService
from chatport.domain.doorkeeper import Doorkeeper
from chatport.domain.history import HistoryBounds
from chatport.domain.keys import Keys
from chatport.domain.limits import RateLimiter
from chatport.domain.ports import Clock, ConversationStore, LimitCounter, LLMGateway, PriceList
from chatport.domain.upstreams import Upstream, Upstreams

from .admin import Admin
from .setting_values import UpstreamSetting
from .settings import Settings

Offload = Callable[[Callable[[], None]], None]
Ready = Callable[[], dict[str, str]]
LEASE_MARGIN_SECONDS = 30.0
"""Two waits of 5 s for the database, and spare; see `LEASE_SECONDS` of the domain."""


OFFLINE_MODEL = "offline"
"""Stored with echoes, so that nobody takes them for a model's answers."""

OFFLINE = "OFFLINE: answers only repeat the prompt"


class MissingKeyError(Exception):
    """There is no key for the provider, and nobody asked for answers without one."""

    def __init__(self) -> None:
        super().__init__(
            "OPENAI_API_KEY is not set. Set it, in the environment or in a file .env,"
            " or add --offline to try chatport without a provider."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the parts will run.

    Attributes:
        offline: Answer without a provider.
        table: Counters that several processes share; None for counters of one's own.
        offload: Where blocking work may run; None for the calling thread.
        loopback: Only this machine can reach it, so that it may be open while there are no keys.
    """

    offline: bool = False
    table: WindowTable | None = None
    offload: Offload | None = None
    loopback: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an entrypoint works with."""

    service: ChatService
    store: ConversationStore
    doorkeeper: Doorkeeper
    admin: Admin
    ready: Ready


def condition(store: ConversationStore, upstream: Callable[[], str]) -> dict[str, str]:
    """Return the condition of each part.

    Raises:
        StorageUnavailable: The log cannot be written, so nothing may be asked of us.
    """
    store.check()
    return {"store": "ok", "limiter": "ok", "upstream": upstream()}


class ServiceModule(Module):
    """One adapter for each port, as the settings choose. A later module may replace any."""

    def __init__(self, settings: Settings, place: Place, closing: ExitStack) -> None:
        self._settings = settings
        self._place = place
        self._closing = closing

    @provider
    @singleton
    def store(self) -> ConversationStore:
        """Return the log, in the file that the settings name or in memory."""
        if self._settings.database is None:
            from chatport.adapters import MemoryStore  # noqa: PLC0415  # only what is chosen is imported

            return MemoryStore()
        from chatport.adapters import PeeweeStore  # noqa: PLC0415  # only what is chosen is imported

        options: dict[str, Any] = {"offload": self._place.offload} if self._place.offload else {}
        store = PeeweeStore(self._settings.database, **options)
        self._closing.callback(store.session.close, for_good=True)
        return store

    @provider
    @singleton
    def gateway(self, clock: Clock) -> LLMGateway:
        """Return the way to the provider, or the answers without one."""
        if self._place.offline:
            from chatport.adapters import OfflineGateway  # noqa: PLC0415  # only what is chosen is imported

            return OfflineGateway()
        return Upstreams(
            [self._upstream(*each) for each in enumerate(self._settings.upstreams, 1)],
            clock,
            total_seconds=self._settings.timeout_seconds,
        )

    def _upstream(self, number: int, setting: UpstreamSetting) -> Upstream:
        """Return a provider, named by its place: `/readyz` tells the name to everybody."""
        from chatport.adapters import OpenAIGateway  # noqa: PLC0415  # a third of a second

        if setting.key is None:
            raise MissingKeyError
        gateway = OpenAIGateway(
            api_key=setting.key.reveal(),
            base_url=setting.url,
            timeout_seconds=self._settings.timeout_seconds,
        )
        self._closing.callback(gateway.close)
        return Upstream(name=f"provider {number}", gateway=gateway)

    @provider
    @singleton
    def counter(self) -> LimitCounter:
        """Return the counter of requests."""
        from chatport.adapters import LimitsCounter  # noqa: PLC0415  # only what is chosen is imported

        return LimitsCounter(self._place.table)

    @provider
    @singleton
    def clock(self) -> Clock:
        """Return the real time."""
        return SystemClock()

    @provider
    @singleton
    def limiter(self, counter: LimitCounter) -> RateLimiter:
        """Return the rate limits."""
        chosen = self._settings
        return RateLimiter(
            counter,
            user=[*chosen.user_limit, *chosen.user_budget],
            caller=[*chosen.caller_limit, *chosen.caller_budget],
            total=[*chosen.total_limit, *chosen.total_budget],
        )

    @provider
    @singleton
    def prices(self) -> PriceList:
        """Return what the models cost."""
        if self._place.offline:
            from chatport.adapters import FreeOfCharge  # noqa: PLC0415  # only what is chosen is imported

            return FreeOfCharge()
        from chatport.adapters import GenaiPriceList, read_prices  # noqa: PLC0415  # a tenth of a second

        own = read_prices(self._settings.prices) if self._settings.prices else {}
        return GenaiPriceList(base_url=self._settings.upstreams[0].url, overrides=own)

    @provider
    @singleton
    def keys(self, store: ConversationStore) -> KeyStore:
        """Return the callers and their keys, which stand in the file of the log."""
        from chatport.adapters import MemoryKeys, PeeweeKeys, PeeweeStore  # noqa: PLC0415  # as above

        return PeeweeKeys(store.session) if isinstance(store, PeeweeStore) else MemoryKeys()

    @provider
    @singleton
    def usage(self, store: ConversationStore) -> UsageLog:
        """Return what was used, which stands in the log."""
        from chatport.adapters import MemoryStore, MemoryUsage, PeeweeStore, PeeweeUsage  # noqa: PLC0415  # as above

        if isinstance(store, PeeweeStore):
            return PeeweeUsage(store.session)
        return MemoryUsage(store if isinstance(store, MemoryStore) else MemoryStore())

    @provider
    @singleton
    def doorkeeper(
        self, keys: KeyStore, counter: LimitCounter, clock: Clock, store: ConversationStore
    ) -> Doorkeeper:
        """Return who lets callers in."""
        return Doorkeeper(
            keys,
            counter=counter,
            clock=clock,
            open_without_keys=self._place.loopback,
            refused=store.count_refusal,
        )

    @provider
    @singleton
    def service(
        self,
        store: ConversationStore,
        gateway: LLMGateway,
        limiter: RateLimiter,
        prices: PriceList,
        clock: Clock,
    ) -> ChatService:
        """Return the pipeline."""
        return ChatService(
            store=store,
            gateway=gateway,
            limiter=limiter,
            prices=prices,
            clock=clock,
            new_id=random_id,
            model=OFFLINE_MODEL if self._place.offline else self._settings.model,
            allowed_models=self._settings.models,
            system_prompt=self._settings.system_prompt,
            history=HistoryBounds(tokens=self._settings.history_tokens),
            max_prompt_bytes=self._settings.max_prompt_bytes,
            max_output_tokens=self._settings.max_output_tokens,
            lease_seconds=self._settings.timeout_seconds + LEASE_MARGIN_SECONDS,
        )

    @provider
    @singleton
    def admin(
        self, keys: KeyStore, usage: UsageLog, store: ConversationStore, clock: Clock
    ) -> Admin:
        """Return what the routes for admins work with."""
        issuer = Keys(keys, clock=clock, new_id=random_key_id, new_secret=random_secret)
        return Admin(keys=issuer, usage=usage, store=store, clock=clock)

    @provider
    @singleton
    def parts(
        self,
        service: ChatService,
        store: ConversationStore,
        gateway: LLMGateway,
        doorkeeper: Doorkeeper,
        admin: Admin,
    ) -> Parts:
        """Return what entrypoints ask for."""
        alone = OFFLINE if self._place.offline else "ok"
        upstream = gateway.condition if isinstance(gateway, Upstreams) else lambda: alone
        return Parts(
            service=service,
            store=store,
            doorkeeper=doorkeeper,
            admin=admin,
            ready=partial(condition, store, upstream),
        )


@contextmanager
def assembled(settings: Settings, place: Place, *replacements: Module) -> Iterator[Parts]:
    """Put the parts together, and close on leaving what was opened.

    Args:
        settings: What the operator chose.
        place: Where the parts run.
        replacements: Modules whose providers take the place of ours, for tests.
    """
    with ExitStack() as closing:
        modules = [ServiceModule(settings, place, closing), *replacements]
        injector = Injector(modules, auto_bind=False)
        yield injector.get(Parts)
