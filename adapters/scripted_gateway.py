"""A provider for tests: it says what it was told to say, and fails where it was told to fail."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from chatport.domain.errors import UpstreamTruncated
from chatport.domain.model import Completion, CompletionRequest, Delta, Usage
from chatport.domain.models import ModelCard
from chatport.domain.ports import LLMGateway

from .openai_answers import StreamedAnswer, completion
from .openai_format import streamed_answer, whole_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens in one call.

    Attributes:
        chunks: The answer, in the pieces that a stream delivers.
        waits_for: The call waits for this event before each chunk: a delay without a clock.
        raises: Raised after the last chunk; before the first where there are none.
        finish_reason: None for an answer that just ends.
        body: The whole answer of a request that is passed on, instead of one made of `chunks`.
        events: The same for a stream: the data of each event.
    """

    chunks: tuple[str, ...] = ()
    waits_for: threading.Event | None = None
    raises: BaseException | None = None
    finish_reason: str | None = "stop"
    usage: Usage | None = None
    upstream_request_id: str | None = None
    body: bytes | None = None
    events: tuple[bytes, ...] = ()


class ScriptedGateway(LLMGateway):
    """Plays one script a call, in order, and the last one for ever. A text is a script too.

    Attributes:
        calls: The requests that came, oldest first.
        open_streams: How many streams were entered and not left.
        model_calls: How often the models were asked for.
    """

    def __init__(self, *scripts: Script | str, models: Sequence[ModelCard] = ()) -> None:
        self._models = models
        self.model_calls = 0
        self._scripts = [
            script if isinstance(script, Script) else Script(chunks=(script,)) for script in scripts
        ]
        self._lock = threading.Lock()
        self.calls: list[CompletionRequest] = []
        self.open_streams = 0

    def complete(self, request: CompletionRequest) -> Completion:
        """Play the next script to its end."""
        script = self._next(request)
        text = "".join(_play(script))
        if script.body is not None:
            return completion(script.body, script.upstream_request_id, relayed=True)
        if script.finish_reason is None:
            raise UpstreamTruncated
        body = None
        if request.body is not None:
            reason, usage = script.finish_reason, script.usage
            body = whole_answer(text, model=request.model, finish_reason=reason, usage=usage)
        return Completion(
            text=text,
            finish_reason=script.finish_reason,
            usage=script.usage,
            upstream_request_id=script.upstream_request_id,
            body=body,
        )

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        """Play the next script piece by piece."""
        script = self._next(request)
        if script.raises is not None and not script.chunks and not script.events:
            raise script.raises
        self._count(+1)
        try:
            yield _deltas(script, request)
        finally:
            self._count(-1)

    def models(self) -> Sequence[ModelCard]:
        """Return the models that the test has named."""
        self.model_calls += 1
        return self._models

    def _next(self, request: CompletionRequest) -> Script:
        with self._lock:
            self.calls.append(request)
            return self._scripts[min(len(self.calls), len(self._scripts)) - 1]

    def _count(self, change: int) -> None:
        with self._lock:
            self.open_streams += change


def _deltas(script: Script, request: CompletionRequest) -> Iterator[Delta]:
    if script.upstream_request_id is not None:
        yield Delta(upstream_request_id=script.upstream_request_id)
    if script.events:
        yield from _read(script)
        return
    yield from streamed_answer(
        _play(script),
        model=request.model,
        finish_reason=script.finish_reason,
        usage=script.usage,
        relayed=request.body is not None,
    )


def _read(script: Script) -> Iterator[Delta]:
    """Read the events of a script as those of a provider are read."""
    answer = StreamedAnswer(relayed=True)
    for event in script.events:
        _wait(script)
        yield from answer.read([event])
    if script.raises is not None:
        raise script.raises
    answer.end()


def _play(script: Script) -> Iterable[str]:
    for chunk in script.chunks:
        _wait(script)
        yield chunk
    if script.raises is not None:
        raise script.raises


def _wait(script: Script) -> None:
    if script.waits_for is not None:
        script.waits_for.wait()
