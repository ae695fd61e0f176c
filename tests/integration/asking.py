"""Asking the provider as the service does."""

from collections.abc import Sequence
from contextlib import closing

from chatport.adapters import MemoryStore, OpenAIGateway, SystemClock, random_id
from chatport.domain import (
    ChatRequest,
    ChatService,
    ChatStream,
    CompletionRequest,
    Delta,
    Exchange,
    LogQuery,
    Message,
)

from .faults import PROMPT

REQUEST = CompletionRequest(
    model="model-1", messages=[Message("system", "Be brief. ☃"), Message("user", PROMPT)]
)


def service(gateway: OpenAIGateway, store: MemoryStore) -> ChatService:
    """Return a service in memory."""
    return ChatService(
        store=store, gateway=gateway, clock=SystemClock(), new_id=random_id, model="model-1"
    )


def started(gateway: OpenAIGateway, store: MemoryStore) -> ChatStream:
    """Return a stream that has just begun."""
    return service(gateway, store).stream(ChatRequest(prompt=PROMPT))


def heard(gateway: OpenAIGateway, store: MemoryStore) -> str:
    """Return the whole text of a stream."""
    with closing(started(gateway, store)) as stream:
        return "".join(stream)


def only(store: MemoryStore) -> Exchange:
    """Return the one exchange that is stored."""
    (exchange,) = store.search(LogQuery())
    return exchange


def deltas_of(gateway: OpenAIGateway) -> Sequence[Delta]:
    """Return what a gateway's stream delivers."""
    with gateway.stream(REQUEST) as deltas:
        return list(deltas)
