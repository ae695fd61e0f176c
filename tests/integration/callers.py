"""Callers with keys, and an application that knows them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import Flask, request

from chatport.adapters import (
    LimitsCounter,
    MemoryKeys,
    MemoryStore,
    MemoryUsage,
    ScriptedGateway,
    SystemClock,
    random_id,
    random_key_id,
    random_secret,
)
from chatport.domain import ANONYMOUS, Caller, ChatService, Role
from chatport.domain.doorkeeper import Doorkeeper
from chatport.domain.keys import Keys
from chatport.domain.models import ModelCard
from chatport.entrypoints.admin import Admin
from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.wiring import condition

MODEL = ModelCard(
    id="m", facts={"id": "m", "object": "model", "created": 0, "owned_by": "chatport"}
)
OPERATOR = Caller(name="operator", role=Role.ADMIN)


def admin_of(store: MemoryStore, keys: MemoryKeys | None = None) -> Admin:
    """Return what the routes for admins work with."""
    issuer = Keys(
        keys or MemoryKeys(),
        clock=SystemClock(),
        new_id=random_key_id,
        new_secret=random_secret,
    )
    return Admin(keys=issuer, usage=MemoryUsage(store), store=store, clock=SystemClock())


def by_path(_authorization: str | None, _address: str) -> Caller:
    """Take everybody for whoever may use the route."""
    return OPERATOR if request.path.startswith("/admin/") else ANONYMOUS


@dataclass
class Site:
    """A service with keys, in memory."""

    gateway: Any = field(default_factory=lambda: ScriptedGateway("Hi", models=[MODEL]))
    store: Any = field(default_factory=MemoryStore)
    limiter: Any = None
    open_without_keys: bool = True
    proxy_hops: int = 0
    kept: MemoryKeys = field(default_factory=MemoryKeys)

    def __post_init__(self) -> None:
        clock = SystemClock()
        self.admin = admin_of(self.store, self.kept)
        self.service = ChatService(
            store=self.store,
            gateway=self.gateway,
            clock=clock,
            new_id=random_id,
            model="m",
            limiter=self.limiter,
        )
        self.doorkeeper = Doorkeeper(
            self.kept,
            counter=LimitsCounter(),
            clock=clock,
            open_without_keys=self.open_without_keys,
            refused=self.store.count_refusal,
        )
        self.app: Flask = create_app(
            self.service,
            partial(condition, self.store, lambda: "ok"),
            authenticate=self.doorkeeper.authenticate,
            admin=self.admin,
            proxy_hops=self.proxy_hops,
        )

    def key(self, name: str, role: Role = Role.CALLER, **facts: Any) -> str:
        """Add a caller, and return its key."""
        return self.admin.keys.create(Caller(name=name, role=role, **facts))

    def now(self) -> datetime:
        """Return the time."""
        return datetime.now(UTC)


def bearer(key: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}
