"""Reading server-sent events, as bytes.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import re

BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r)(?:\r\n|\n|\r)")


class SSEDecoder:
    """Collects bytes and hands out the data of each event that is complete."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that `data` completes; comments have none."""
        *events, self._buffer = BLANK_LINE.split(self._buffer + data)
        return [payload for event in events if (payload := _data(event))]


def _data(event: bytes) -> bytes:
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line[1:] if line.startswith(b" ") else line for line in lines)
