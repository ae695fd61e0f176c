"""A streamed answer, and exactly when its exchange ends."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack

from .allowance import Allowance
from .errors import ChatportError, UpstreamTruncated
from .model import Completion, Delta, Exchange, Usage
from .repeats import error_of
from .reply import Reply, reply_again
from .turn import Partial, Turn

HEARTBEAT = Delta()

CHECKPOINT_SECONDS = 2.0
CHECKPOINT_CHARACTERS = 4096
CHECKPOINT_SHARE = 8
"""Each writes all there is: of a long answer an eighth must be new, or the cost is quadratic.

A kill -9 loses at most so many seconds of a partial answer, and at most so many characters or such
a share of it.
"""


class ChatStream(ABC):
    """Iterate over the answer's text as it arrives; close it whatever happens.

    When iteration ends by itself, the outcome has been committed and `reply` is there. An error
    is committed before it is raised. `close()` before either is the client leaving. An empty
    piece is a heartbeat, or a thought. For one thread at a time.

    Attributes:
        exchange_id: The exchange that holds the answer.
        user_id: Whose answer it is.
        allowances: What is left of each limit.
        reply: The whole answer, once the stream has come to its good end.
        replayed: This answer was given before; nothing is called or consumed.
    """

    exchange_id: str
    user_id: str
    allowances: Sequence[Allowance] = ()
    reply: Reply | None = None
    replayed = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            delta = self.next_delta()
            if delta is None:
                raise StopIteration
            if delta.text or delta.said_bytes or delta == HEARTBEAT:
                return delta.text

    @abstractmethod
    def next_delta(self) -> Delta | None:
        """Return the next piece with all that the provider said, or None at the good end."""

    @abstractmethod
    def close(self) -> None:
        """End the stream; if it had not ended by itself, the client left. Idempotent."""


class LiveStream(ChatStream):
    """The answer of a call that is under way."""

    def __init__(self, turn: Turn, upstream: AbstractContextManager[Iterator[Delta]]) -> None:
        """Open the call; raise as `LLMGateway.stream` does."""
        self.exchange_id = turn.exchange_id
        self.user_id = turn.user_id
        self.allowances = turn.allowances
        self._turn = turn
        self._upstream = ExitStack()
        self._parts: list[str] = []
        self._answer: list[bytes] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._is_head = False
        self._said_bytes = 0
        self._attempts = 1
        self._upstream_request_id: str | None = None
        self._ended = False
        self._unwritten = self._written = 0
        self._written_at = 0.0
        with turn.failing():
            self._deltas = self._upstream.enter_context(upstream)

    def next_delta(self) -> Delta | None:
        """Return the next piece; at the good end, commit the outcome."""
        if self._ended:
            return None
        try:
            delta = next(self._deltas, None)
            if delta is None:
                self._complete()
            else:
                self._take(delta)
        except BaseException as error:
            self._abandon(error)
            raise
        return delta

    def close(self) -> None:
        """End the stream; if it had not ended by itself, the client left. Idempotent."""
        self._ended = True
        try:
            self._upstream.close()
        finally:
            self._turn.cancel(self._partial())

    def _take(self, delta: Delta) -> None:
        self._finish_reason = delta.finish_reason or self._finish_reason
        if delta.usage is not None:
            self._usage, self._is_head = delta.usage, delta.is_head
        self._said_bytes = delta.said_bytes_after(self._said_bytes)
        self._attempts = max(self._attempts, delta.attempts)
        self._upstream_request_id = delta.upstream_request_id or self._upstream_request_id
        if delta.text:
            self._parts.append(delta.text)
            self._unwritten += len(delta.text)
        if self._turn.keeps_answer:
            self._keep(delta)
        if self._unwritten:
            self._checkpoint()

    def _keep(self, delta: Delta) -> None:
        """Keep the piece as it came, so that the stream can be told once more."""
        if delta.events:
            self._answer.extend(delta.events)
            self._unwritten += len(delta.events)  # also if they hold no text, as of a tool call
        elif delta.text:
            self._answer.append(delta.text.encode("utf-8", "surrogatepass"))

    def _checkpoint(self) -> None:
        age = self._turn.seconds - self._written_at
        enough = max(CHECKPOINT_CHARACTERS, self._written // CHECKPOINT_SHARE)
        if self._unwritten >= enough or age >= CHECKPOINT_SECONDS:
            self._turn.checkpoint(self._partial())
            self._written += self._unwritten
            self._unwritten, self._written_at = 0, self._turn.seconds

    def _complete(self) -> None:
        self._ended = True
        self._upstream.close()
        if self._finish_reason is None:
            raise UpstreamTruncated
        self.reply = self._turn.complete(
            Completion(
                text="".join(self._parts),
                finish_reason=self._finish_reason,
                usage=self._usage,
                upstream_request_id=self._upstream_request_id,
                attempts=self._attempts,
                said_bytes=self._said_bytes,
            ),
            self._answer,
        )

    def _abandon(self, error: BaseException) -> None:
        self._ended = True
        if isinstance(error, ChatportError):
            error.upstream_request_id = error.upstream_request_id or self._upstream_request_id
        try:
            self._upstream.close()
        finally:
            self._turn.fail(error, self._partial())

    def _partial(self) -> Partial:
        return Partial(
            text="".join(self._parts),
            usage=self._usage,
            is_head=self._is_head,
            upstream_request_id=self._upstream_request_id,
            answer=self._answer,
            attempts=self._attempts,
            said_bytes=self._said_bytes,
        )


class RepeatedStream(ChatStream):
    """An answer that was given before, piece by piece as it was then.

    Raises:
        ChatportError: The earlier call failed before its first piece.
    """

    replayed = True

    def __init__(self, earlier: Exchange) -> None:
        self.exchange_id = earlier.id
        self.user_id = earlier.user_id
        self._pieces = iter(earlier.answer)
        self._relayed = earlier.request is not None
        self._closed = False
        self._error = error_of(earlier)
        if self._error is not None and not earlier.answer:
            raise self._error
        if self._error is None:
            self._whole = reply_again(earlier)

    def next_delta(self) -> Delta | None:
        """Return the next piece, and at the end what the end was."""
        if self._closed:
            return None
        piece = next(self._pieces, None)
        if piece is not None:
            if self._relayed:
                return Delta(events=(piece,))
            return Delta(text=piece.decode("utf-8", "surrogatepass"))
        if self._error is not None:
            raise self._error
        self.reply = self._whole
        return None

    def close(self) -> None:
        """Say no more."""
        self._closed = True
