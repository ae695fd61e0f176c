"""The pipeline that every prompt goes through: admit, begin, call, finish."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

from .errors import ChatportError, InvalidField, RateLimited
from .history import History, HistoryBounds, utf8_size
from .limits import RateLimiter
from .model import (
    Allowance,
    ChatRequest,
    CompletionRequest,
    Exchange,
    Message,
    check_user_id,
)
from .ports import Clock, ConversationStore, LLMGateway, NewId
from .stream import ChatStream
from .turn import Reply, Turn

MAX_PROMPT_BYTES = 100_000
"""About 25,000 tokens: a long document. What is longer is more often a mistake."""

DEFAULT_HISTORY = HistoryBounds()

LEASE_SECONDS = 150.0
"""The longest a turn can take: 120 s upstream, 5 s of waiting for each of two commits, spare."""


_message: Callable[[tuple[str, str]], Message] = partial(tuple.__new__, Message)
"""`Message` for the long loop over a history, at three quarters of its constructor's cost."""


class ChatService:
    """Answers prompts, continues conversations, and writes everything down.

    Args:
        store: Memory and log.
        gateway: The way to the provider.
        clock: The time.
        new_id: Unguessable, unique ids.
        limiter: Rate limits; None for none.
        model: The provider's name of the model.
        system_prompt: Goes first in every call; empty for none.
        history: How much of a conversation goes along.
        max_prompt_bytes: A longer prompt is refused.
        lease_seconds: An exchange that is open for longer counts as abandoned.
    """

    def __init__(
        self,
        *,
        store: ConversationStore,
        gateway: LLMGateway,
        clock: Clock,
        new_id: NewId,
        model: str,
        limiter: RateLimiter | None = None,
        system_prompt: str = "",
        history: HistoryBounds = DEFAULT_HISTORY,
        max_prompt_bytes: int = MAX_PROMPT_BYTES,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._clock = clock
        self._new_id = new_id
        self._limiter = limiter
        self._model = model
        self._system = [Message("system", system_prompt)] if system_prompt else []
        self._system_bytes = utf8_size(system_prompt)
        self._history = history
        self._max_prompt_bytes = max_prompt_bytes
        self._lease = timedelta(seconds=lease_seconds)

    def reply(self, request: ChatRequest) -> Reply:
        """Answer a prompt in one piece.

        Raises:
            InvalidField: The prompt is too long.
            RateLimited: A limit is reached; nothing was consumed, stored or called.
            ConversationBusy: The user's previous prompt is still being answered.
            StorageUnavailable, ExchangeLost: The exchange could not be kept.
            UpstreamError, ContentFiltered, ContextLengthExceeded: The provider failed or refused.
        """
        turn = self._open(request)
        with turn.failing():
            completion = self._gateway.complete(turn.call)
        return turn.complete(completion)

    def stream(self, request: ChatRequest) -> ChatStream:
        """Answer a prompt piece by piece; raise as `reply` does. The caller closes the stream."""
        turn = self._open(request)
        with turn.failing():
            upstream = self._gateway.stream(turn.call)
        return ChatStream(turn, upstream)

    def conversation(
        self, caller: str, user_id: str, *, before: int | None = None, limit: int = 50
    ) -> Sequence[Exchange]:
        """Return the user's newest `limit` exchanges numbered below `before`, newest last.

        Raises:
            InvalidUserId: No user can have this id.
        """
        check_user_id(user_id)
        return self._store.conversation(caller, user_id, before=before, limit=limit)

    def erase(self, caller: str, user_id: str) -> int:
        """Delete the user's exchanges for good, and return how many they were.

        Raises:
            InvalidUserId: No user can have this id.
        """
        check_user_id(user_id)
        return self._store.erase(caller, user_id)

    def _open(self, request: ChatRequest) -> Turn:
        if utf8_size(request.prompt) > self._max_prompt_bytes:
            raise InvalidField("prompt", f"is longer than {self._max_prompt_bytes} bytes")
        exchange = self._exchange(request)
        allowance = self._admit(exchange)
        try:
            history = self._store.begin(exchange, self._history)
        except ChatportError as error:
            error.allowance = allowance
            raise
        except BaseException:  # interrupted while it was written, or just after
            with suppress(ChatportError):
                self._store.finish(exchange.interrupted(self._clock.now()))
            raise
        return Turn(
            exchange,
            self._call(history, request.prompt),
            allowance,
            context_bytes=self._system_bytes + history.bytes + utf8_size(request.prompt),
            store=self._store,
            clock=self._clock,
        )

    def _exchange(self, request: ChatRequest) -> Exchange:
        now = self._clock.now()
        return Exchange(
            id=request.request_id or self._new_id(),
            caller=request.caller,
            user_id=request.user_id or self._new_id(),
            route=request.route,
            model=self._model,
            prompt=request.prompt,
            started_at=now,
            lease_until=now + self._lease,
        )

    def _admit(self, exchange: Exchange) -> Allowance | None:
        if self._limiter is None:
            return None
        try:
            return self._limiter.admit(exchange.caller, exchange.user_id)
        except RateLimited as refusal:
            with suppress(ChatportError):  # a database in trouble changes nothing about the refusal
                self._store.count_refusal(exchange.caller, refusal.rule, exchange.started_at)
            raise

    def _call(self, history: History, prompt: str) -> CompletionRequest:
        messages = list(self._system)
        for turn in history.turns:
            messages += (_message(("user", turn.prompt)), _message(("assistant", turn.reply)))
        messages.append(Message("user", prompt))
        return CompletionRequest(model=self._model, messages=messages)
