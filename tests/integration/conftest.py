"""The provider that misbehaves, and the parts that have to bear it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from chatport.adapters import MemoryStore, OpenAIGateway

from .faults import AMPLE_SECONDS, KEY
from .upstream import Upstream, running_upstream

OpenGateway = Callable[[float], OpenAIGateway]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Return a provider that has no script yet."""
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture
def open_gateway(upstream: Upstream) -> Iterator[OpenGateway]:
    """Return a function that makes a gateway with a timeout in seconds."""
    with ExitStack() as closing:

        def open_gateway(timeout_seconds: float) -> OpenAIGateway:
            gateway = OpenAIGateway(
                api_key=KEY, base_url=upstream.url, timeout_seconds=timeout_seconds
            )
            closing.callback(gateway.close)
            return gateway

        yield open_gateway


@pytest.fixture
def gateway(open_gateway: OpenGateway) -> OpenAIGateway:
    """Return a gateway that has time."""
    return open_gateway(AMPLE_SECONDS)


@pytest.fixture
def store() -> MemoryStore:
    """Return an empty store."""
    return MemoryStore()
