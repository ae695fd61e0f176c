"""Two providers behind a live service: one that is down, and one that answers."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

Serve = Callable[..., Any]


@pytest.fixture
def nobody() -> Iterator[str]:
    """Return where no provider listens, and no other test can begin to meanwhile."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def test_the_second_provider_answers_while_the_first_is_down(
    serve: Serve, provider: Any, nobody: str
) -> None:
    both = f"{nobody}, {provider.url} SECOND_KEY"
    service = serve("--workers", "1", CHATPORT_UPSTREAMS=both, SECOND_KEY="sk-second")
    for n in range(7):  # the last of them past the breaker
        status, body, _ = service.ask({"user_id": "ada", "prompt": f"number {n}"})
        assert (status, body["completion"]) == (200, f"echo: number {n}")
    assert len(provider.prompts) == 7


def test_a_provider_that_is_down_is_left_alone(serve: Serve, nobody: str) -> None:
    service = serve("--workers", "1", OPENAI_BASE_URL=nobody)
    codes = []
    for _ in range(4):  # two attempts each, until the fifth opens the breaker
        status, body, headers = service.ask({"user_id": "ada", "prompt": "Hello"})
        codes.append((status, body["code"]))
    assert codes == [(502, "upstream_unreachable")] * 3 + [(503, "upstream_unavailable")]
    assert 1 <= int(headers["Retry-After"]) <= 10
