"""A streamed answer, and exactly when its exchange ends."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

from .errors import ChatportError, UpstreamTruncated
from .model import Completion, Delta, Usage
from .turn import Reply, Turn

HEARTBEAT = Delta()

CHECKPOINT_SECONDS = 2.0
CHECKPOINT_CHARACTERS = 4096
"""A kill -9 loses at most this much of a partial answer."""


class ChatStream:
    """Iterate over the answer's pieces as they arrive; close it whatever happens.

    When iteration ends by itself, the outcome has been committed and `reply` is there. An error
    is committed before it is raised. `close()` before either is the client leaving. An empty
    piece is a heartbeat. For one thread at a time.

    Attributes:
        reply: The whole answer, once the stream has come to its good end.
    """

    def __init__(self, turn: Turn, upstream: AbstractContextManager[Iterator[Delta]]) -> None:
        """Open the call; raise as `LLMGateway.stream` does."""
        self.user_id = turn.user_id
        self.allowance = turn.allowance
        self.reply: Reply | None = None
        self._turn = turn
        self._upstream = ExitStack()
        self._parts: list[str] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._upstream_request_id: str | None = None
        self._ended = False
        self._unwritten = 0
        self._written_at = 0.0
        with turn.failing():
            self._deltas = self._upstream.enter_context(upstream)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        try:
            for delta in self._deltas:
                self._take(delta)
                if delta.text or delta == HEARTBEAT:
                    return delta.text
            self._complete()
        except BaseException as error:
            self._abandon(error)
            raise
        raise StopIteration

    def close(self) -> None:
        """End the stream; if it had not ended by itself, the client left. Idempotent."""
        self._ended = True
        try:
            self._upstream.close()
        finally:
            self._turn.cancel(self._text(), self._usage, self._upstream_request_id)

    def _take(self, delta: Delta) -> None:
        self._finish_reason = delta.finish_reason or self._finish_reason
        self._usage = delta.usage or self._usage
        self._upstream_request_id = delta.upstream_request_id or self._upstream_request_id
        if not delta.text:
            return
        self._parts.append(delta.text)
        self._unwritten += len(delta.text)
        age = self._turn.seconds - self._written_at
        if self._unwritten >= CHECKPOINT_CHARACTERS or age >= CHECKPOINT_SECONDS:
            self._turn.checkpoint(self._text())
            self._unwritten, self._written_at = 0, self._turn.seconds

    def _complete(self) -> None:
        self._ended = True
        self._upstream.close()
        if self._finish_reason is None:
            raise UpstreamTruncated
        self.reply = self._turn.complete(
            Completion(
                text=self._text(),
                finish_reason=self._finish_reason,
                usage=self._usage,
                upstream_request_id=self._upstream_request_id,
            )
        )

    def _abandon(self, error: BaseException) -> None:
        self._ended = True
        if isinstance(error, ChatportError):
            error.upstream_request_id = error.upstream_request_id or self._upstream_request_id
        try:
            self._upstream.close()
        finally:
            self._turn.fail(error, self._text(), self._usage)

    def _text(self) -> str:
        return "".join(self._parts)
