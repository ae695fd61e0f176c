"""Writing a streamed answer in OpenAI's protocol: the provider's own chunks, byte for byte.

The one thing that is changed is `usage`: chatport always asks for it, the client may not have.
"""

import json
from collections.abc import Callable, Iterator
from json import JSONDecoder

from chatport.domain.model import Delta, always
from chatport.domain.stream import ChatStream

from . import sse
from .faults import Fault, openai_body
from .json_spans import scan

DONE = b"data: [DONE]\n\n"
USAGE = b'"usage"'
NO_USAGE = b',"usage":null}'

AS_PYTHON_READS_IT = JSONDecoder()
"""A provider may write what a client may not; its chunks have been read so already."""


def events(
    stream: ChatStream, *, wants_usage: bool, still_wanted: Callable[[], bool] = always
) -> Iterator[bytes]:
    """Yield the stream's events; the last is `[DONE]`, unless the client has left."""

    def shown(delta: Delta) -> bytes:
        return b"".join([chunk(data, wants_usage=wants_usage) for data in delta.events])

    yield from sse.pieces(stream, shown, still_wanted)
    if stream.reply is not None:
        yield DONE


def error_event(fault: Fault) -> bytes:
    """Return the event that ends a stream which has no good end."""
    return _event(json.dumps(openai_body(fault)).encode())


def chunk(data: bytes, *, wants_usage: bool) -> bytes:
    """Return a chunk's event as the client asked for it; nothing if it holds nothing else."""
    if USAGE not in data and not wants_usage:
        return _event(data)
    if data.endswith(NO_USAGE):  # only a member of the outermost object can stand there
        return _event(data if wants_usage else data[: -len(NO_USAGE)] + b"}")
    found = scan(data.decode(), AS_PYTHON_READS_IT)
    if wants_usage:
        missing = {} if "usage" in found.spans else {"usage": "null"}
        return _event(found.changed(missing).encode())
    if "usage" not in found.spans:
        return _event(data)
    if not found.value.get("choices") and found.value["usage"] is not None:
        return b""
    return _event(found.without("usage").encode())


def _event(data: bytes) -> bytes:
    """Return an event. Data of several lines needs a field for each."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
