"""The provider, through the `openai` SDK: any service that speaks OpenAI's chat completions.

The SDK's `create()` builds pydantic objects for every message, 113 ms of CPU for 1,000 of them.
Its low-level `post()` keeps authentication, headers and typed errors, and skips that.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, cast

import httpx2
import openai
from openai._models import FinalRequestOptions

from chatport.domain.errors import UpstreamInvalidResponse
from chatport.domain.model import Completion, CompletionRequest, Delta
from chatport.domain.models import ModelCard
from chatport.domain.ports import LLMGateway

from .openai_answers import StreamedAnswer, completion
from .openai_models import model_cards
from .sse import SSEDecoder
from .transport_limits import TransportLimits
from .upstream_connection import STILL_WANTED, WITHIN_SECONDS
from .upstream_faults import translated
from .upstream_transport import (
    BODY,
    END_SECONDS,
    ERROR_BYTES,
    UpstreamBody,
    UpstreamTransport,
)
from .upstream_words import id_of_call

QUIET_SECONDS = 0.25
"""How long bytes may come that say nothing, before that counts as a silence."""

OPENAI_URL = "https://api.openai.com/v1"


class OpenAIGateway(LLMGateway):
    """Calls `POST {base_url}/chat/completions` once per request.

    Takes nothing from the environment: no key, address, organisation, proxy or header.

    Args:
        api_key: The provider's key; any text where the provider needs none.
        base_url: Up to and without `/chat/completions`.
        timeout_seconds: From the call to the last byte. A quarter of it may pass in silence.
    """

    def __init__(
        self, *, api_key: str, base_url: str = OPENAI_URL, timeout_seconds: float = 120.0
    ) -> None:
        self._key = api_key
        limits = TransportLimits(total=timeout_seconds, silence=timeout_seconds / 4)
        self._http = httpx2.Client(transport=UpstreamTransport(limits), trust_env=False)
        self._client = _Client(api_key=api_key, base_url=base_url, http_client=self._http)

    def complete(self, request: CompletionRequest) -> Completion:
        """Call the provider and read its whole answer."""
        relayed = request.body is not None
        with translated(self._key, relayed=relayed):
            response = self._client.send(_body(request, stream=False))
            request_id = id_of_call(response.headers.get("x-request-id"), self._key)
            return completion(
                response.content, request_id, relayed=relayed, status=response.status_code
            )

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Call the provider and read its answer as it arrives."""
        relayed = request.body is not None
        with translated(self._key, relayed=relayed):
            body = _body(request, stream=True)
            body.still_wanted = request.still_wanted
            response = self._client.send(body, stream=True)
        try:
            with translated(self._key):
                _check_is_stream(response)
            yield _deltas(response, StreamedAnswer(relayed=relayed), self._key)
        finally:
            response.close()

    def models(self) -> Sequence[ModelCard]:
        """Ask the provider for its models."""
        with translated(self._key):
            return model_cards(self._client.get("/models", cast_to=httpx2.Response).content)

    def close(self) -> None:
        """Close the connections to the provider."""
        self._client.close()


class _Body(bytes):
    """A request's body, how long its call may take, and whether its answer is still wanted.

    The SDK hands a body on as it is, and has no other place for what the transport must know. A
    whole answer is always wanted, since it can be asked for again.
    """

    still_wanted: Callable[[], bool] | None = None
    within_seconds: float | None = None


class _Client(openai.OpenAI):
    """The SDK's client, sending its requests with only the headers that we choose.

    The SDK merges seven sources of headers and parses the address three times for each call, a
    third of the whole cost; ours are always the same.
    """

    def __init__(self, *, api_key: str, base_url: str, http_client: httpx2.Client) -> None:
        super().__init__(api_key=api_key, base_url=base_url, max_retries=0, http_client=http_client)
        self._urls = {
            "POST": httpx2.URL(f"{base_url.rstrip('/')}/chat/completions"),
            "GET": httpx2.URL(f"{base_url.rstrip('/')}/models"),
        }
        self._headers = httpx2.Headers(
            {
                "Host": self._urls["POST"].netloc.decode("ascii"),
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Authorization": f"Bearer {api_key}",
                "Content-Type": "application/json",
                "User-Agent": "chatport",
            }
        )

    def send(self, body: _Body, *, stream: bool = False) -> httpx2.Response:
        """Send a completion's request once, and return the answer; raise the SDK's errors."""
        response: Any = self.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=body,
            options={"follow_redirects": False},
            stream=stream,
            stream_cls=openai.Stream,
        )
        return cast("httpx2.Response", response)  # what `cast_to` asked for

    def _build_request(
        self, options: FinalRequestOptions, *, retries_taken: int = 0
    ) -> httpx2.Request:
        del retries_taken  # there are none
        method, body = options.method.upper(), options.content
        if not isinstance(body, _Body | None):
            raise TypeError("only our own calls are sent")
        extensions: dict[str, Any] = {}
        if body is not None:
            extensions[STILL_WANTED] = body.still_wanted
            if body.within_seconds is not None:
                extensions[WITHIN_SECONDS] = body.within_seconds
        return httpx2.Request(
            method,
            self._urls[method],
            headers=self._headers,
            content=body,
            extensions=extensions,
        )


def _body(request: CompletionRequest, *, stream: bool) -> _Body:
    body = _Body(_encode(request, stream=stream) if request.body is None else request.body)
    body.within_seconds = request.within_seconds
    return body


def _encode(request: CompletionRequest, *, stream: bool) -> bytes:
    """Return the body. Message by message: half the cost of a list of dictionaries."""
    messages = ",".join(
        f'{{"role":{_quoted(role)},"content":{_quoted(text)}}}' for role, text in request.messages
    )
    options = ',"stream":true,"stream_options":{"include_usage":true}' if stream else ""
    if request.max_tokens is not None:
        options += f',"max_completion_tokens":{request.max_tokens}'
    body = f'{{"model":{_quoted(request.model)},"messages":[{messages}]{options}}}'
    return body.encode()


_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _check_is_stream(response: httpx2.Response) -> None:
    if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        error = UpstreamInvalidResponse(
            upstream_status=response.status_code,
            upstream_request_id=response.headers.get("x-request-id"),
        )
        said: bytes = response.extensions[BODY].beginning(ERROR_BYTES, END_SECONDS)
        error.upstream_said = said.decode("utf-8", "replace")
        raise error


def _deltas(response: httpx2.Response, answer: StreamedAnswer, key: str) -> Iterator[Delta]:
    """Yield the pieces of a streamed answer: for all events that arrive together, one piece."""
    with translated(key):
        if request_id := id_of_call(response.headers.get("x-request-id"), key):
            yield Delta(upstream_request_id=request_id)
        for payloads in _arrivals(response):
            yield from answer.read(payloads)
        answer.end()


def _arrivals(response: httpx2.Response) -> Iterator[list[bytes]]:
    """Yield the data of the events that arrive together; nothing for a silence.

    A provider that sends parts of an event, or comments, is silent too, but not at each of them.
    Reads on past `[DONE]` to the end of the body, so that the connection can be used again; but
    does not wait there for a provider that says no more.
    """
    body: UpstreamBody = response.extensions[BODY]  # httpx2 has wrapped it, and has no `end`
    decoder = SSEDecoder()
    silent_again = time.monotonic() + QUIET_SECONDS
    for piece in body:  # `Response.iter_raw` drops the empty heartbeats
        payloads = decoder.feed(piece)
        last = [*takewhile(_is_not_the_end, payloads)]
        if len(last) < len(payloads):
            if last:
                yield last
            body.end()
            return
        if payloads or not piece or time.monotonic() > silent_again:
            yield payloads
            silent_again = time.monotonic() + QUIET_SECONDS


def _is_not_the_end(payload: bytes) -> bool:
    return not payload.startswith(b"[DONE]")  # as OpenAI's SDKs look for it
