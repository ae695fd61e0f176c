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
        head, *tails = LINE_END.split(data)
        self._line.append(head)
        payloads = []
        for tail in tails:
            if (payload := self._end_line()) is not None:
                payloads.append(payload)
            self._line.append(tail)
        return payloads

    def _end_line(self) -> bytes | None:
        """Take the complete line; return the event's data if the line is blank."""
        line = b"".join(self._line)
        self._line.clear()
        if not self._started:
            line, self._started = line.removeprefix(BYTE_ORDER_MARK), True
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        if line or not self._data:
            return None
        payload = b"\n".join(self._data)
        self._data.clear()
        return payload or None
