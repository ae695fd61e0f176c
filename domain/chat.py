"""The pipeline that every prompt goes through: admit, begin, call, finish, settle."""

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

from .admission import Admission
from .errors import ChatportError, InvalidField, ModelNotAllowed, Refused
from .estimates import DEFAULT_OUTPUT_TOKENS, Estimate
from .history import History, HistoryBounds, utf8_size
from .limits import RateLimiter
from .model import ChatRequest, CompletionRequest, Exchange, Message, always, check_user_id
from .models import ModelCatalog
from .ports import Clock, ConversationStore, LLMGateway, NewId, PriceList
from .repeats import Repeats, attempts_of, error_of
from .reply import Reply, reply_again
from .retention import Retention
from .stream import ChatStream, LiveStream, RepeatedStream
from .turn import Turn

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
        limiter: Limits and budgets; None for those only that callers have of their own.
        prices: What tokens cost; None if nobody knows.
        model: The provider's name of the model.
        allowed_models: Which models a request that is passed on may name; empty for all.
        system_prompt: Goes first in every call; empty for none.
        history: How much of a conversation goes along.
        max_prompt_bytes: A longer prompt is refused.
        max_output_tokens: A longer answer may not be asked for; None for what the model has in it.
        lease_seconds: An exchange that is open for longer counts as abandoned.

    Attributes:
        models: The models that may be asked for.
        max_output_tokens: The longest answer that may be asked for; None for no bound.
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
        prices: PriceList | None = None,
        system_prompt: str = "",
        history: HistoryBounds = DEFAULT_HISTORY,
        max_prompt_bytes: int = MAX_PROMPT_BYTES,
        max_output_tokens: int | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._store = store
        self._retention = Retention(store, clock)
        self._gateway = gateway
        self._clock = clock
        self._new_id = new_id
        self._limiter = limiter or RateLimiter()
        self._prices = prices
        self._model = model
        self._allowed_models = frozenset(allowed_models)
        self.models = ModelCatalog(gateway, clock, allowed_models)
        self._repeats = Repeats(store, clock)
        self._pseudonym_key = b""
        self._system = [Message("system", system_prompt)] if system_prompt else []
        self._system_bytes = utf8_size(system_prompt)
        self._history = history
        self._max_prompt_bytes = max_prompt_bytes
        self.max_output_tokens = max_output_tokens
        self._lease = timedelta(seconds=lease_seconds)

    def reply(self, request: ChatRequest) -> Reply:
        """Answer a prompt in one piece, or again as it was answered before.

        Raises:
            InvalidField: The prompt is too long, or the model is not allowed.
            IdempotencyInProgress, IdempotencyKeyReused: The idempotency key is in use.
            Refused: A limit or a budget is reached; nothing was consumed, stored or called.
            ConversationBusy: The user's previous prompt is still being answered.
            StorageUnavailable, ExchangeLost: The exchange could not be kept.
            UpstreamError, ContentFiltered, ContextLengthExceeded: The provider failed or refused.
        """
        earlier = self._earlier(request)
        if earlier is not None and earlier.final:
            return _again(earlier)
        turn = self._open(request, earlier)
        with turn.failing():
            call = replace(turn.call, still_wanted=always)  # it is kept, whoever left
            completion = self._gateway.complete(call)
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
        return sum(step.count for step in self._retention.erase_user(caller, user_id))

    def _earlier(self, request: ChatRequest) -> Exchange | None:
        """Check the request, and return what it repeats, before it meets a limit."""
        if request.relay is None and utf8_size(request.prompt) > self._max_prompt_bytes:
            raise InvalidField("prompt", f"is longer than {self._max_prompt_bytes} bytes")
        self._check_model(request)
        if request.user_id is None and request.relay is None and not _has_key(request):
            return None  # two strangers who say the same must not get to share a user id
        return self._repeats.earlier(request.caller.name, request.once, request.still_wanted)

    def _check_model(self, request: ChatRequest) -> None:
        model = request.relay.model if request.relay else self._model
        if not request.caller.may_use(model):
            raise ModelNotAllowed
        if request.relay is not None:
            if self._allowed_models and model not in self._allowed_models:
                raise ModelNotAllowed
            most, asked = self.max_output_tokens, request.relay.max_tokens
            if most is not None and asked is not None and asked > most:
                raise InvalidField("max_completion_tokens", f"must be at most {most} in all")

    def _open(self, request: ChatRequest, earlier: Exchange | None) -> Turn:
        exchange = self._exchange(request, earlier)
        admission = self._admission(request)
        with self._counting_refusals(exchange):
            try:
                history = self._begin(exchange, admission)
            except BaseException as error:
                left = admission.release()
                if isinstance(error, ChatportError):
                    error.allowances = error.allowances or left
                raise
        return Turn(
            admission.opened or exchange,
            self._call(request, history),
            admission,
            store=self._store,
            clock=self._clock,
        )

    def _begin(self, exchange: Exchange, admission: Admission) -> History:
        try:
            return self._store.begin(exchange, self._history, admission.claim())
        except ChatportError:
            raise
        except BaseException:  # interrupted while it was written, or just after
            with suppress(ChatportError):
                opened = admission.opened or exchange
                self._store.finish(opened.interrupted(self._clock.now()))
            raise

    def _admission(self, request: ChatRequest) -> Admission:
        own = utf8_size(request.prompt)
        size, longest = own + self._system_bytes, self.max_output_tokens
        if request.relay is not None:
            size = len(request.relay.body) if request.relay.size is None else request.relay.size
            longest = request.relay.max_tokens or longest
        estimate = Estimate(
            own_bytes=own,
            context_bytes=size,
            output_tokens=longest or DEFAULT_OUTPUT_TOKENS,
            prices=self._prices,
        )
        return Admission(self._limiter, request.caller, estimate)

    @contextmanager
    def _counting_refusals(self, exchange: Exchange) -> Iterator[None]:
        try:
            yield
        except Refused as refusal:
            with suppress(ChatportError):  # a database in trouble changes nothing about the refusal
                self._store.count_refusal(exchange.caller, refusal.rule, exchange.started_at)
            raise

    def _exchange(self, request: ChatRequest, earlier: Exchange | None) -> Exchange:
        """Return the exchange to open; the next attempt of an earlier one keeps its identity."""
        now = self._clock.now()
        user_id = earlier.user_id if earlier else request.user_id
        exchange_id = earlier.id if earlier else request.request_id
        return Exchange(
            id=exchange_id or self._new_id(),
            caller=request.caller.name,
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

    def _call(self, request: ChatRequest, history: History) -> CompletionRequest:
        """Return what to send to the provider."""
        if request.relay is not None:
            return CompletionRequest(
                model=request.relay.model,
                body=request.relay.body,
                still_wanted=request.still_wanted,
            )
        messages = list(self._system)
        for turn in history.turns:
            messages += (_message(("user", turn.prompt)), _message(("assistant", turn.reply)))
        messages.append(Message("user", request.prompt))
        return CompletionRequest(
            model=self._model,
            messages=messages,
            max_tokens=self.max_output_tokens,
            still_wanted=request.still_wanted,
        )


def _has_key(request: ChatRequest) -> bool:
    return request.once is not None and request.once.key is not None


def _again(earlier: Exchange) -> Reply:
    """Give an answer once more, or fail once more."""
    if (error := error_of(earlier)) is not None:
        raise error
    return reply_again(earlier)
