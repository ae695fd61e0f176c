"""The records of the domain. Each checks itself when it is made, and none can change afterwards."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from .callers import ANONYMOUS, Caller
from .errors import InvalidField, InvalidUnicode, InvalidUserId
from .relay import Once, Relay, RequestText
from .text import UNSTORABLE

INTERRUPTED = "interrupted"
"""The error code of an exchange whose process died."""

LONGEST_SETBACK = timedelta(days=2)
"""More than a wrong time zone or date; by so much, a budget's period or a purge may come late."""

INSTANT = timedelta(microseconds=1)
"""The resolution of all times that are kept."""

USER_ID = re.compile(r"[A-Za-z0-9._@:-]{1,128}")


def always() -> bool:
    """Return True."""
    return True


class State(StrEnum):
    """Whether an exchange is still open, or how it ended."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Message(NamedTuple):
    """One message for the model. A tuple, since a long history makes a thousand of them a call.

    Attributes:
        role: `system`, `user` or `assistant`.
        text: What was said.
    """

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call. `estimated` says that the provider sent no counts.

    Attributes:
        cached_tokens: Those of the prompt that the provider remembered, and sells for less.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """What a gateway sends to the provider.

    Attributes:
        messages: Oldest first; the prompt is the last.
        body: The request in the provider's own protocol, to be passed on as it is; then there are
            no messages, and the answer's own bytes are wanted too.
        max_tokens: The longest answer; None for what the model has in it. A body says it itself.
        still_wanted: Asked every few seconds of silence before a streamed answer begins; False
            ends the call.
        within_seconds: How long the call may take; None for as long as the gateway allows.
    """

    model: str
    messages: Sequence[Message] = ()
    body: bytes | None = None
    max_tokens: int | None = None
    still_wanted: Callable[[], bool] = always
    within_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer of the provider.

    Attributes:
        body: The answer as it came, if the request was passed on as it was.
        attempts: How often the provider was called for it.
        said_bytes: What the model said that `usage` does not count, in bytes of UTF-8: the words,
            thoughts and tool calls of each choice.
    """

    text: str
    finish_reason: str
    usage: Usage | None = None
    upstream_request_id: str | None = None
    body: bytes | None = None
    attempts: int = 1
    said_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a streamed answer.

    An empty `text` with nothing else is a heartbeat: the provider is silent, the stream is alive.
    The finish reason, the usage and the request id each come once, with any piece.

    Attributes:
        events: The provider's own events, as they came, if the request was passed on as it was.
        is_head: The usage came before anything was said; what it counts is no answer yet.
        attempts: How often the provider was called, where it was more than once.
        said_bytes: What the model said in this piece; with a usage that counts an answer, all of
            the stream that this does not count. As of a Completion.
    """

    text: str = ""
    events: Sequence[bytes] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    is_head: bool = False
    upstream_request_id: str | None = None
    attempts: int = 1
    said_bytes: int = 0

    def said_bytes_after(self, before: int) -> int:
        """Return how much no usage counts after this piece, if it was so much before."""
        return self.said_bytes if self._counts_words else before + self.said_bytes

    @property
    def says_something(self) -> bool:
        """Whether the model has said or thought something; a head or a heartbeat is nothing."""
        said = self.text or self.said_bytes or self.finish_reason
        return bool(said) or (self._counts_words and not self.is_head)

    @property
    def _counts_words(self) -> bool:
        return self.usage is not None and self.usage.completion_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A user's prompt, checked.

    Attributes:
        prompt: 1 or more characters, not only white space. Of a relay, what was said last, for
            the log; it may be empty.
        user_id: Names the user and continues the chat; None asks for a new, unguessable one.
        caller: Whose user this is.
        route: Where the request came in, for the log.
        request_id: Becomes the exchange's id; None asks for a new one.
        relay: The request in the provider's own protocol, if it came so.
        once: What tells a repeated request from a new one; None takes each as new.
        still_wanted: Says whether somebody still waits for a streamed answer to begin.

    Raises:
        InvalidField: The prompt is empty.
        InvalidUserId: The user id has other characters, or is longer than 128.
        InvalidUnicode: The prompt holds NUL or a lone surrogate.
    """

    prompt: str
    user_id: str | None = None
    caller: Caller = ANONYMOUS
    route: str = "embedded"
    request_id: str | None = None
    relay: Relay | None = None
    once: Once | None = None
    still_wanted: Callable[[], bool] = always

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt, may_be_empty=self.relay is not None)
        if self.user_id is not None:
            check_user_id(self.user_id)


def check_text(field: str, text: str, *, may_be_empty: bool = False) -> None:
    """Refuse text that is empty, or that not every database can store.

    Raises:
        InvalidField: The text is empty or only white space.
        InvalidUnicode: The text holds NUL or a lone surrogate.
    """
    if not may_be_empty and (not text or text.isspace()):
        raise InvalidField(field, "must not be empty")
    if UNSTORABLE.search(text):
        raise InvalidUnicode(field, "holds a NUL or half a surrogate pair")


def check_user_id(user_id: str) -> None:
    """Refuse a user id that is not 1 to 128 characters of `A-Z a-z 0-9 . _ @ : -`.

    Raises:
        InvalidUserId: It is not.
    """
    if not USER_ID.fullmatch(user_id):
        raise InvalidUserId("user_id", "must be 1 to 128 of the characters A-Z a-z 0-9 . _ @ : -")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One prompt and what became of it: the unit of the memory and of the log.

    Attributes:
        id: Public and unique; the `X-Request-Id` of the request.
        number: Orders the exchanges of one store; 0 until the store has given one.
        context_from: Number of the oldest exchange that went along as history; None if none did.
        reply: The answer's text; what had arrived of it where the outcome is not `completed`.
        usage: Of an open exchange, and of one whose process died, what it may use at most.
        nanodollars: What the usage costs, in 1e-9 USD; None if the price is not known.
        turn_tokens: What this prompt and reply will cost in a later history.
        sanitized: The model's text held characters that cannot be stored, now U+FFFD.
        attempts: How often the provider was called.
        lease_until: When an exchange that is still open counts as abandoned.
        request: What the client wrote, if it was passed on as it was. Such an exchange is no turn
            of a conversation. `ConversationStore.search` leaves it and the answer out.
        answer: The provider's answer as it came, if the request was passed on or may be repeated:
            one piece, or one for each event of a stream.
        upstream_said: The beginning of what the provider said about its failure, without keys.
        final: A repeated request gets this outcome again, and no new attempt.
    """

    id: str
    caller: str
    user_id: str
    route: str
    model: str
    prompt: str
    started_at: datetime
    lease_until: datetime
    number: int = 0
    state: State = State.OPEN
    context_from: int | None = None
    reply: str = ""
    sanitized: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None
    nanodollars: int | None = None
    turn_tokens: int = 0
    error_code: str | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    upstream_said: str | None = None
    attempts: int = 0
    finished_at: datetime | None = None
    request: RequestText | None = None
    answer: Sequence[bytes] = ()
    final: bool = False
    idempotency_key: str | None = None
    request_hash: str | None = None

    def __post_init__(self) -> None:
        if (self.state is State.OPEN) != (self.finished_at is None):
            raise ValueError("an exchange has a finished_at exactly when it is not open")

    def interrupted(self, at: datetime) -> "Exchange":
        """Return the exchange as it ends when its process is gone."""
        end = max(at, self.started_at)  # the clock may have been set back since
        return replace(self, state=State.INTERRUPTED, finished_at=end, error_code=INTERRUPTED)

    def after(self, latest: datetime | None) -> "Exchange":
        """Return the exchange dated after what the log holds, if the clock was set back since.

        Its lease stays as the clock has it. A log that is dated far ahead is not followed: then
        the clock was wrong before.
        """
        if latest is None or not timedelta(0) <= latest - self.started_at <= LONGEST_SETBACK:
            return self
        return replace(self, started_at=latest + INSTANT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which exchanges to read from the log. None means any.

    Attributes:
        text: Words that must occur in the prompt or the reply.
        before: Only exchanges with a smaller number: the next page, newest first.
        after: Only exchanges with a larger number: the next page, oldest first.
        limit: How many at most.
        oldest_first: In which direction to read.
    """

    text: str | None = None
    caller: str | None = None
    user_id: str | None = None
    state: State | None = None
    since: datetime | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 50
    oldest_first: bool = False
