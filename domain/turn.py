"""One open exchange, and the one outcome it will have."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from .admission import Admission
from .errors import CallerGone, ChatportError, ExchangeLost
from .history import estimated_tokens
from .model import Completion, CompletionRequest, Exchange, State, Usage
from .ports import Clock, ConversationStore
from .reply import Reply
from .text import storable

MAX_LABEL = 128
"""Characters. OpenAI's request ids have 36, its finish reasons up to 14."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What has arrived of an answer that is not whole.

    Attributes:
        is_head: The usage came before anything was said, and counts no answer.
        said_bytes: What the model has said since `usage`; as of a Completion.
    """

    text: str = ""
    usage: Usage | None = None
    is_head: bool = False
    upstream_request_id: str | None = None
    answer: Sequence[bytes] = ()
    attempts: int = 0
    said_bytes: int = 0


NOTHING = Partial()


class Turn:
    """Settles an exchange that `ConversationStore.begin` has written. For one thread at a time.

    The first outcome counts; whatever is reported afterwards changes nothing.

    Args:
        admission: What the limits have admitted it for.
    """

    def __init__(
        self,
        exchange: Exchange,
        call: CompletionRequest,
        admission: Admission,
        *,
        store: ConversationStore,
        clock: Clock,
    ) -> None:
        self.call = call
        self.exchange_id = exchange.id
        self.user_id = exchange.user_id
        self.allowances = admission.allowances
        self.keeps_answer = exchange.request is not None or exchange.request_hash is not None
        self._exchange = exchange
        self._admission = admission
        self._estimate = admission.estimate
        self._store = store
        self._clock = clock
        self._started = clock.monotonic()
        self._settled = False

    @property
    def seconds(self) -> float:
        """Return how long the turn has been open."""
        return self._clock.monotonic() - self._started

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Give the exchange its outcome when the block raises, and let the error go on."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise

    def complete(self, completion: Completion, answer: Sequence[bytes] = ()) -> Reply:
        """Commit the answer; only then may its last byte go out.

        Args:
            completion: The answer.
            answer: Its pieces, where it came in pieces.

        Raises:
            ExchangeLost: The exchange was erased or interrupted; the answer was not kept.
            StorageUnavailable: The answer could not be kept.
        """
        text = storable(completion.text)
        pieces = answer if completion.body is None else (completion.body,)
        usage = self._used(completion.usage, text, completion.said_bytes)
        self._settle(
            State.COMPLETED,
            text,
            usage,
            answer=pieces,
            final=True,
            finish_reason=_label(completion.finish_reason),
            sanitized=text != completion.text,
            turn_tokens=self._turn_tokens(usage),
            attempts=completion.attempts,
            upstream_request_id=_label(completion.upstream_request_id),
        )
        return Reply(
            exchange_id=self.exchange_id,
            user_id=self.user_id,
            text=text,
            finish_reason=completion.finish_reason,
            usage=usage,
            answer=completion.body or b"",
            allowances=self.allowances,
        )

    def fail(self, error: BaseException, partial: Partial = NOTHING) -> None:
        """Record why there is no whole answer, and tell the error what is left of the limits.

        A ChatportError is an outcome of its own; any other Exception is a defect of chatport or
        of an adapter; what is no Exception (KeyboardInterrupt, an exit) interrupts the turn.
        """
        error.allowances = self.allowances  # type: ignore[attr-defined]  # any exception can carry it
        error.exchange_id = self.exchange_id  # type: ignore[attr-defined]  # as above
        attempts = max(getattr(error, "attempts", 1), partial.attempts)
        if isinstance(error, CallerGone):
            self.cancel(replace(partial, attempts=attempts))
            return
        state = State.FAILED if isinstance(error, Exception) else State.INTERRUPTED
        facts = error if isinstance(error, ChatportError) else ChatportError()
        text = storable(partial.text)
        self._settle(
            state,
            text,
            self._used_by_failure(state, text, partial, facts),
            answer=partial.answer if facts.passed_on is None else (facts.passed_on,),
            final=facts.may_be_billed,
            sanitized=text != partial.text,
            error_code=facts.code if state is State.FAILED else "server_shutdown",
            attempts=attempts,
            upstream_status=facts.upstream_status,
            upstream_request_id=_label(facts.upstream_request_id or partial.upstream_request_id),
            upstream_said=storable(facts.upstream_said) or None,
        )

    def cancel(self, partial: Partial) -> None:
        """Record that the client left before the answer was whole."""
        text = storable(partial.text)
        self._settle(
            State.CANCELLED,
            text,
            self._used(partial.usage, text, partial.said_bytes),
            answer=partial.answer,
            attempts=partial.attempts or 1,
            sanitized=text != partial.text,
            upstream_request_id=_label(partial.upstream_request_id),
        )

    def checkpoint(self, partial: Partial) -> None:
        """Write down what has arrived so far, so that not even kill -9 loses it.

        A database that cannot take it now does not end a healthy stream.
        """
        with suppress(ChatportError):
            so_far = {"reply": storable(partial.text), "answer": partial.answer}
            self._store.checkpoint(replace(self._exchange, **so_far))  # type: ignore[arg-type]  # as below

    def _settle(
        self, state: State, reply: str, usage: Usage | None, *, attempts: int, **facts: object
    ) -> None:
        if self._settled:
            return
        self._settled = True
        try:
            self._write_outcome(
                state, reply, usage, {**facts, "attempts": self._exchange.attempts + attempts}
            )
        finally:
            self._admission.settle(usage)

    def _write_outcome(
        self, state: State, reply: str, usage: Usage | None, facts: dict[str, object]
    ) -> None:
        finished_at = self._exchange.started_at + timedelta(seconds=self.seconds)
        outcome = {
            "state": state,
            "reply": reply,
            "usage": usage,
            "nanodollars": self._estimate.cost(self._exchange.model, usage) if usage else None,
            **facts,
        }
        closed = replace(self._exchange, finished_at=finished_at, **outcome)  # type: ignore[arg-type]  # the keys are fields of Exchange, as every test of an outcome shows
        try:
            self._store.finish(closed)
        except ChatportError as error:
            if isinstance(error, ExchangeLost) and state is not State.COMPLETED:
                return  # erased meanwhile: there is nothing left that could have an outcome
            error.allowances, error.exchange_id = self.allowances, self.exchange_id
            error.may_be_billed = True
            raise
        except Exception:  # a defect of the store, whatever it is; it goes on from here
            self._store.finish(self._defect(finished_at))
            raise
        except BaseException as end:  # interrupted while it was written: once more
            is_kept = self._is_kept(closed)
            if isinstance(end, KeyboardInterrupt | SystemExit) or not is_kept:
                end.exchange_id = self.exchange_id  # type: ignore[attr-defined]  # as in `fail`
                raise

    def _is_kept(self, closed: Exchange) -> bool:
        """Write it once more; return whether a whole answer is kept, which its client must hear."""
        try:
            self._store.finish(closed)
        except ExchangeLost:  # it was written before, or erased
            with suppress(ChatportError):
                kept = self._store.find(closed.id)
                return kept is not None and kept.state is State.COMPLETED
            return False
        except ChatportError:
            return False
        return closed.state is State.COMPLETED

    def _defect(self, finished_at: datetime) -> Exchange:
        """Return the exchange without whatever a store could not write: it must not stay open."""
        return replace(
            self._estimate.of(self._exchange),
            state=State.FAILED,
            error_code=ChatportError.code,
            attempts=self._exchange.attempts + 1,
            finished_at=finished_at,
        )

    def _used(self, usage: Usage | None, reply: str, said_bytes: int) -> Usage:
        """Return what the provider has counted, and what it has not, by its size."""
        estimate = self._estimate.usage(reply, said_bytes)
        if usage is None:
            return estimate
        if not usage.prompt_tokens:  # there is no request without any
            usage = replace(usage, prompt_tokens=estimate.prompt_tokens, estimated=True)
        if not said_bytes:
            return usage
        counted = usage.completion_tokens + estimated_tokens(said_bytes)
        return replace(usage, completion_tokens=counted, estimated=True)

    def _used_by_failure(
        self, state: State, reply: str, partial: Partial, error: ChatportError
    ) -> Usage | None:
        """Return what has arrived; of what may be billed unseen, the most; or else nothing."""
        usage = partial.usage or error.usage
        counted = usage.completion_tokens if usage else 0
        is_whole = error.usage is not None and error.usage.prompt_tokens > 0
        said = reply or partial.said_bytes or is_whole or (counted and not partial.is_head)
        if not said and (error.may_be_billed or state is State.INTERRUPTED):
            most = self._estimate.most()
            longest = max(most.completion_tokens, counted)
            told = usage if usage and usage.prompt_tokens else most
            return replace(told, completion_tokens=longest, estimated=True)
        if said or usage or partial.answer:
            return self._used(usage, reply, partial.said_bytes)
        return None

    def _turn_tokens(self, usage: Usage) -> int:
        if self._exchange.request is not None:
            return 0  # it is nobody's history
        return self._estimate.turn_tokens(usage)


def _label(text: str | None) -> str | None:
    """Return a word of the provider's as it can be stored: not longer than it needs to be."""
    return None if text is None else storable(text)[:MAX_LABEL]
