"""Reading server-sent events, as bytes.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import re

LINE_END = re.compile(rb"\r\n|\n|\r")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SSEDecoder:
    """Collects bytes and hands out the data of each event that is complete.

    Looks at each byte once: an event may come in many thousand pieces.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._in_crlf = False
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that `data` completes; comments have none."""
        if not data:
            return []
        if self._in_crlf:
            data = data.removeprefix(b"\n")
        self._in_crlf = data.endswith(b"\r")
        first, *others = LINE_END.split(data)
        self._line.append(first)
        if not others:
            return []
        *lines, rest = b"".join(self._line), *others
        self._line = [rest]
        if not self._started:
            lines[0], self._started = lines[0].removeprefix(BYTE_ORDER_MARK), True
        return [payload for payload in map(self._take, lines) if payload]

    def _take(self, line: bytes) -> bytes | None:
        """Take a complete line; return the event's data if the line is blank."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        if line or not self._data:
            return None
        payload = b"\n".join(self._data)
        self._data.clear()
        return payload
