"""The pipeline that every prompt goes through: admit, begin, call, finish."""

import hashlib
import hmac
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

from .allowance import Allowance
from .errors import ChatportError, InvalidField, ModelNotAllowed, RateLimited
from .history import History, HistoryBounds, utf8_size
from .limits import RateLimiter
from .model import ChatRequest, CompletionRequest, Exchange, Message, check_user_id
from .models import ModelCatalog
from .ports import Clock, ConversationStore, LLMGateway, NewId
from .repeats import Repeats, attempts_of, error_of
from .stream import ChatStream, LiveStream, RepeatedStream
from .turn import Reply, Turn, reply_again

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
        allowed_models: Which models a request that is passed on may name; empty for all.
        system_prompt: Goes first in every call; empty for none.
        history: How much of a conversation goes along.
        max_prompt_bytes: A longer prompt is refused.
        lease_seconds: An exchange that is open for longer counts as abandoned.

    Attributes:
        models: The models that may be asked for.
    """

    def __init__(
        self,
        *,
        store: ConversationStore,
        gateway: LLMGateway,
        clock: Clock,
        new_id: NewId,
        model: str,
        allowed_models: Collection[str] = (),
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
        self._allowed_models = frozenset(allowed_models)
        self.models = ModelCatalog(gateway, clock, allowed_models)
        self._repeats = Repeats(store, clock)
        self._pseudonym_key = b""
        self._system = [Message("system", system_prompt)] if system_prompt else []
        self._system_bytes = utf8_size(system_prompt)
        self._history = history
        self._max_prompt_bytes = max_prompt_bytes
        self._lease = timedelta(seconds=lease_seconds)

    def reply(self, request: ChatRequest) -> Reply:
        """Answer a prompt in one piece, or again as it was answered before.

        Raises:
            InvalidField: The prompt is too long, or the model is not allowed.
            IdempotencyInProgress, IdempotencyKeyReused: The idempotency key is in use.
            RateLimited: A limit is reached; nothing was consumed, stored or called.
            ConversationBusy: The user's previous prompt is still being answered.
            StorageUnavailable, ExchangeLost: The exchange could not be kept.
            UpstreamError, ContentFiltered, ContextLengthExceeded: The provider failed or refused.
        """
        earlier = self._earlier(request)
        if earlier is not None and earlier.final:
            return _again(earlier)
        turn = self._open(request, earlier)
        with turn.failing():
            completion = self._gateway.complete(turn.call)
        return turn.complete(completion)

    def stream(self, request: ChatRequest) -> ChatStream:
        """Answer a prompt piece by piece; raise as `reply` does. The caller closes the stream.

        Raises:
            CallerGone: `request.still_wanted` said that nobody waits any more.
        """
        earlier = self._earlier(request)
        if earlier is not None and earlier.final:
            return RepeatedStream(earlier)
        turn = self._open(request, earlier)
        with turn.failing():
            upstream = self._gateway.stream(turn.call)
        return LiveStream(turn, upstream)

    def pseudonym(self, caller: str, user_id: str) -> str:
        """Return 64 characters that stand for a user, and that only this store can tell."""
        if not self._pseudonym_key:
            self._pseudonym_key = self._store.pseudonym_key()
        name = f"{caller}/{user_id}".encode()
        return hmac.new(self._pseudonym_key, name, hashlib.sha256).hexdigest()

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

    def _earlier(self, request: ChatRequest) -> Exchange | None:
        """Check the request, and return what it repeats, before it meets a limit."""
        if request.relay is None:
            if utf8_size(request.prompt) > self._max_prompt_bytes:
                raise InvalidField("prompt", f"is longer than {self._max_prompt_bytes} bytes")
        elif self._allowed_models and request.relay.model not in self._allowed_models:
            raise ModelNotAllowed
        if request.user_id is None and request.relay is None and not _has_key(request):
            return None  # two strangers who say the same must not get to share a user id
        return self._repeats.earlier(request.caller, request.once, request.still_wanted)

    def _open(self, request: ChatRequest, earlier: Exchange | None) -> Turn:
        exchange = self._exchange(request, earlier)
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
        call, context_bytes = self._call(request, history)
        return Turn(
            exchange,
            call,
            allowance,
            context_bytes=context_bytes,
            store=self._store,
            clock=self._clock,
        )

    def _exchange(self, request: ChatRequest, earlier: Exchange | None) -> Exchange:
        """Return the exchange to open; the next attempt of an earlier one keeps its identity."""
        now = self._clock.now()
        user_id = earlier.user_id if earlier else request.user_id
        exchange_id = earlier.id if earlier else request.request_id
        return Exchange(
            id=exchange_id or self._new_id(),
            caller=request.caller,
            user_id=user_id or self._new_id(),
            route=request.route,
            model=request.relay.model if request.relay else self._model,
            prompt=request.prompt,
            started_at=now,
            lease_until=now + self._lease,
            attempts=attempts_of(earlier) if earlier else 0,
            request=request.relay.text if request.relay else None,
            idempotency_key=request.once.key if request.once else None,
            request_hash=request.once.request_hash if request.once else None,
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

    def _call(self, request: ChatRequest, history: History) -> tuple[CompletionRequest, int]:
        """Return what to send to the provider, and the size of its text in bytes."""
        if request.relay is not None:
            body = request.relay.body
            call = CompletionRequest(
                model=request.relay.model, body=body, still_wanted=request.still_wanted
            )
            return call, len(body)
        messages = list(self._system)
        for turn in history.turns:
            messages += (_message(("user", turn.prompt)), _message(("assistant", turn.reply)))
        messages.append(Message("user", request.prompt))
        call = CompletionRequest(
            model=self._model, messages=messages, still_wanted=request.still_wanted
        )
        return call, self._system_bytes + history.bytes + utf8_size(request.prompt)


def _has_key(request: ChatRequest) -> bool:
    return request.once is not None and request.once.key is not None


def _again(earlier: Exchange) -> Reply:
    """Give an answer once more, or fail once more."""
    if (error := error_of(earlier)) is not None:
        raise error
    return reply_again(earlier)
