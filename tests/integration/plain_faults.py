"""What a provider can do wrong in an answer that is not streamed."""

import gzip
import json
from typing import Any

from chatport.domain.errors import UpstreamDisconnected, UpstreamInvalidResponse

from .faults import FAULTS, QUOTED, Fault, endless, page
from .upstream import Answer, Then
from .wire import chunk, completion, http

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ONE_BYTE_OF_99 = HEAD + b"Content-Length: 99\r\n\r\n{"

BODIES = (
    Fault("closes early", Answer(ONE_BYTE_OF_99, then=Then.CLOSE), UpstreamDisconnected),
    Fault("resets early", Answer(ONE_BYTE_OF_99, then=Then.RESET), UpstreamDisconnected),
    Fault(
        "closes before the last chunk",
        Answer(CHUNKED + chunk(b"{}"), then=Then.CLOSE),
        UpstreamDisconnected,
    ),
    endless("falls silent within the body", Answer(ONE_BYTE_OF_99, then=Then.HANG)),
    endless("drips an endless body", Answer(CHUNKED, drip=chunk(b" "))),
    Fault(
        "breaks the chunked coding",
        Answer(CHUNKED + b"no size\r\n", then=Then.CLOSE),
        UpstreamDisconnected,
    ),
    Fault("sends over 8 MB", Answer(http("200 OK", b" " * 8_000_001)), UpstreamInvalidResponse),
    Fault(
        "compresses although that was declined",
        Answer(http("200 OK", gzip.compress(b"{}"), "Content-Encoding: gzip")),
        UpstreamInvalidResponse,
    ),
)


def _no_completion(name: str, body: Any) -> Fault:
    """Return the fault of a whole answer of status 200 that is nothing of use."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer(http("200 OK", data, "Content-Type: application/json"))
    return Fault(name, answer, UpstreamInvalidResponse, 200)


NO_COMPLETIONS = (
    Fault("sends a web page", Answer(page("200 OK")), UpstreamInvalidResponse, 200),
    _no_completion("sends nothing", b""),
    _no_completion("sends broken JSON", b'{"choices": ['),
    _no_completion("sends invalid UTF-8", b'{"choices": "\xff\xfe"}' + QUOTED.encode()),
    _no_completion("nests its JSON too deep", b"[" * 100_000),
    _no_completion("sends null", None),
    _no_completion("sends a text", QUOTED),
    _no_completion("sends a list", []),
    _no_completion("sends an empty object", {}),
    _no_completion("sends an error with status 200", {"error": {"message": QUOTED}}),
    _no_completion("offers no choices", {"choices": []}),
    _no_completion("offers null for choices", {"choices": None}),
    _no_completion("offers null as its choice", {"choices": [None]}),
    _no_completion("offers a choice without a message", completion(message=None)),
    _no_completion("offers a message without text", completion(message={"content": None})),
    _no_completion("offers a number for text", completion(message={"content": 5})),
    _no_completion("gives no finish reason", completion(finish_reason=None)),
    _no_completion("gives a number as finish reason", completion(finish_reason=5)),
)

PLAIN_FAULTS = (*FAULTS, *BODIES, *NO_COMPLETIONS)
