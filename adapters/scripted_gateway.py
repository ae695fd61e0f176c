"""A provider for tests: it says what it was told to say, and fails where it was told to fail."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chatport.domain.errors import UpstreamTruncated
from chatport.domain.model import Completion, CompletionRequest, Delta, Usage
from chatport.domain.ports import LLMGateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens in one call.

    Attributes:
        chunks: The answer, in the pieces that a stream delivers.
        waits_for: The call waits for this event before each chunk: a delay without a clock.
        raises: Raised after the last chunk; before the first where there are none.
        finish_reason: None for an answer that just ends.
    """

    chunks: tuple[str, ...] = ()
    waits_for: threading.Event | None = None
    raises: BaseException | None = None
    finish_reason: str | None = "stop"
    usage: Usage | None = None
    upstream_request_id: str | None = None


class ScriptedGateway(LLMGateway):
    """Plays one script a call, in order, and the last one for ever. A text is a script too.

    Attributes:
        calls: The requests that came, oldest first.
        open_streams: How many streams were entered and not left.
    """

    def __init__(self, *scripts: Script | str) -> None:
        self._scripts = [
            script if isinstance(script, Script) else Script(chunks=(script,)) for script in scripts
        ]
        self._lock = threading.Lock()
        self.calls: list[CompletionRequest] = []
        self.open_streams = 0

    def complete(self, request: CompletionRequest) -> Completion:
        """Play the next script to its end."""
        script = self._next(request)
        text = "".join(delta.text for delta in _play(script))
        if script.finish_reason is None:
            raise UpstreamTruncated
        return Completion(
            text=text,
            finish_reason=script.finish_reason,
            usage=script.usage,
            upstream_request_id=script.upstream_request_id,
        )

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Play the next script piece by piece."""
        script = self._next(request)
        if script.raises is not None and not script.chunks:
            raise script.raises
        self._count(+1)
        try:
            yield _with_end(script)
        finally:
            self._count(-1)

    def _next(self, request: CompletionRequest) -> Script:
        with self._lock:
            self.calls.append(request)
            return self._scripts[min(len(self.calls), len(self._scripts)) - 1]

    def _count(self, change: int) -> None:
        with self._lock:
            self.open_streams += change


def _with_end(script: Script) -> Iterator[Delta]:
    yield from _play(script)
    if script.finish_reason is not None:
        yield Delta(
            finish_reason=script.finish_reason,
            usage=script.usage,
            upstream_request_id=script.upstream_request_id,
        )


def _play(script: Script) -> Iterable[Delta]:
    for chunk in script.chunks:
        if script.waits_for is not None:
            script.waits_for.wait()
        yield Delta(text=chunk)
    if script.raises is not None:
        raise script.raises
