"""A service in front of the provider of the SDK tests, and how the Python SDK asks it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from chatport.adapters import PeeweeStore
from chatport.domain import Exchange, State
from integration.programs import PROGRAM

from .conftest import Service
from .sdk_provider import PATIENCE_SECONDS, SdkProvider

MODEL = "vendor/echo-1"
"""The model that the service offers. Ids of models may contain a slash."""


@contextmanager
def running_service(
    provider: SdkProvider,
    folder: Path,
    *arguments: str,
    program: str = PROGRAM,
    **environment: str,
) -> Iterator[Service]:
    """Run a `chatport serve` without limits in front of the provider."""
    defaults = {
        "OPENAI_API_KEY": "sk-canary-key",
        "OPENAI_BASE_URL": f"{provider.origin}/v1",
        "CHATPORT_MODEL": MODEL,
        "CHATPORT_USER_LIMIT": "",
        "CHATPORT_TOTAL_LIMIT": "",
    }
    service = Service(folder, {**defaults, **environment}, *arguments, program=program)
    try:
        yield service
    finally:
        service.kill()


def url(service: Service) -> str:
    """Return what an application gives its SDK as the base URL."""
    return f"http://127.0.0.1:{service.port}/v1"


def ask(prompt: str) -> Any:
    """Return the messages of a prompt."""
    return [{"role": "user", "content": prompt}]


def streamed(client: OpenAI, prompt: str, **options: Any) -> list[ChatCompletionChunk]:
    """Return all chunks of a streamed answer."""
    stream = client.chat.completions.create(
        model=MODEL, messages=ask(prompt), stream=True, **options
    )
    return list(cast("Iterator[ChatCompletionChunk]", stream))


def text(chunks: list[ChatCompletionChunk]) -> str:
    """Return what the chunks say together."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def ended(service: Service, request_id: str | None) -> Exchange:
    """Return an exchange of the log, once it has ended."""
    assert request_id is not None
    store = PeeweeStore(service.folder / "chatport.db")
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while time.monotonic() < deadline:
            exchange = store.find(request_id)
            assert exchange is not None, f"{request_id} is not in the log"
            if exchange.state is not State.OPEN:
                return exchange
    finally:
        store.close()
    raise AssertionError(f"{request_id} is still open")
