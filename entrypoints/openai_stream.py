"""Writing a streamed answer in OpenAI's protocol: the provider's own chunks, byte for byte.

The one thing that is changed is `usage`: chatport always asks for it, the client may not have.
"""

import json
import re
from collections.abc import Callable, Iterator
from json import JSONDecoder

from chatport.domain.model import Delta, always
from chatport.domain.stream import ChatStream

from . import sse
from .faults import Fault, openai_body
from .json_spans import JSONObject, TooManyMembers, scan

DONE = b"data: [DONE]\n\n"
USAGE = re.compile(rb'"(?:u|\\u0075)(?:s|\\u0073)(?:a|\\u0061)(?:g|\\u0067)(?:e|\\u0065)"')
"""The name as JSON may write it."""

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
    if wants_usage:
        return _event(_with_usage(data))
    if USAGE.search(data) is None:
        return _event(data)
    rest = data[: -len(NO_USAGE)] + b"}"
    if data.endswith(NO_USAGE) and USAGE.search(rest) is None:
        return _event(rest)
    found = _scanned(data.decode())
    if "usage" not in found.spans:
        return _event(data)
    if not found.value.get("choices") and found.value["usage"] is not None:
        return b""
    return _event(_without_usage(found))


def _scanned(text: str) -> JSONObject:
    """Return the chunk and its places; one that says the same a thousand times is written anew."""
    try:
        return scan(text, AS_PYTHON_READS_IT)
    except TooManyMembers:
        return scan(json.dumps(json.loads(text)), AS_PYTHON_READS_IT)


def _with_usage(data: bytes) -> bytes:
    if data.endswith(NO_USAGE):  # only a member of the outermost object can stand there
        return data
    found = _scanned(data.decode())
    return data if "usage" in found.spans else found.changed({"usage": "null"}).encode()


def _without_usage(found: JSONObject) -> bytes:
    """Return the chunk without its usage, which some name twice; then it is written anew."""
    rest = found.without("usage").encode()
    if USAGE.search(rest) is None or "usage" not in _scanned(rest.decode()).spans:
        return rest
    others = {name: value for name, value in found.value.items() if name != "usage"}
    return json.dumps(others).encode()


def _event(data: bytes) -> bytes:
    """Return an event. Data of several lines needs a field for each."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"
