"""Second attempts, failover and the breaker, as a service sees them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from chatport.adapters import MemoryStore, Script, ScriptedGateway
from chatport.domain import (
    ChatRequest,
    Completion,
    CompletionRequest,
    Delta,
    Upstream,
    Upstreams,
)
from chatport.domain.errors import (
    CallerGone,
    ChatportError,
    ContentFiltered,
    UpstreamAuthFailed,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHungUp,
    UpstreamInvalidResponse,
    UpstreamModelUnavailable,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from chatport.domain.model import Usage
from chatport.domain.models import ModelCard
from chatport.domain.upstreams import jitter

from .conftest import FakeClock, MakeService

REQUEST = CompletionRequest(model="m")


def told(error: UpstreamError, seconds: float) -> UpstreamError:
    error.waits_as_told = True
    error.retry_after_seconds = seconds
    return error


def billed(error: UpstreamError) -> UpstreamError:
    error.may_be_billed = True
    return error


def named(error: ChatportError) -> str:
    return f"{type(error).__name__}-{error.upstream_status}-{error.retry_after_seconds}"


RETRIED = (
    UpstreamUnreachable(),
    UpstreamOverloaded(upstream_status=503, retry_after_seconds=1),
    *(UpstreamError(upstream_status=status) for status in (408, 409, 500, 502, 504)),
    told(UpstreamRateLimited(upstream_status=429), 5),
    told(UpstreamOverloaded(upstream_status=529), 5),
)
NOT_RETRIED = (
    UpstreamTimeout(),
    UpstreamHungUp(),
    UpstreamDisconnected(),
    UpstreamInvalidResponse(),
    UpstreamError(),
    UpstreamError(upstream_status=520),
    billed(UpstreamError(upstream_status=503)),
    UpstreamAuthFailed(upstream_status=401),
    UpstreamModelUnavailable(upstream_status=404),
    UpstreamModelUnavailable(upstream_status=503),
    UpstreamRejected(upstream_status=400),
    UpstreamQuotaExhausted(upstream_status=429),
    UpstreamRateLimited(upstream_status=429, retry_after_seconds=1),
    told(UpstreamRateLimited(upstream_status=429), 5.1),
    told(UpstreamOverloaded(upstream_status=503), 5.1),
    ContentFiltered(upstream_status=400),
)
ELSEWHERE_ONLY = (
    UpstreamAuthFailed(upstream_status=401),
    UpstreamRejected(upstream_status=402),
    UpstreamQuotaExhausted(upstream_status=429),
    UpstreamRateLimited(upstream_status=429, retry_after_seconds=1),
    told(UpstreamRateLimited(upstream_status=429), 5.1),
)


def failing(error: BaseException, *then: str) -> ScriptedGateway:
    return ScriptedGateway(Script(raises=error), *then)


def upstreams(clock: FakeClock, *gateways: ScriptedGateway, **options: Any) -> Upstreams:
    named = [Upstream(name=f"n{n}", gateway=gateway) for n, gateway in enumerate(gateways)]
    return Upstreams(named, clock, **{"jitter": lambda: 0.5, **options})


def ask(gateway: Upstreams, *, stream: bool) -> tuple[str, int]:
    """Return the answer's text, and how many attempts it took."""
    if not stream:
        completion = gateway.complete(REQUEST)
        return completion.text, completion.attempts
    with gateway.stream(REQUEST) as deltas:
        pieces = list(deltas)
    return "".join(piece.text for piece in pieces), max(piece.attempts for piece in pieces)


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_good_answer_takes_one_attempt(clock: FakeClock, *, stream: bool) -> None:
    gateway = ScriptedGateway("fine")
    assert ask(upstreams(clock, gateway), stream=stream) == ("fine", 1)
    assert len(gateway.calls) == 1


@pytest.mark.parametrize("error", RETRIED, ids=named)
def test_what_may_be_over_in_a_moment_is_tried_once_more(
    clock: FakeClock, error: UpstreamError, *, stream: bool
) -> None:
    gateway = failing(error, "fine")
    assert ask(upstreams(clock, gateway), stream=stream) == ("fine", 2)
    assert clock.passed == (5 if error.waits_as_told else 0.5)


@pytest.mark.parametrize("error", RETRIED, ids=named)
def test_there_is_no_third_attempt(clock: FakeClock, error: UpstreamError, *, stream: bool) -> None:
    gateway = failing(error)
    with pytest.raises(type(error)) as raised:
        ask(upstreams(clock, gateway), stream=stream)
    assert raised.value.attempts == len(gateway.calls) == 2


@pytest.mark.parametrize("error", NOT_RETRIED, ids=named)
def test_what_may_be_billed_or_will_not_pass_is_not_tried_again(
    clock: FakeClock, error: ChatportError, *, stream: bool
) -> None:
    gateway = failing(error, "fine")
    with pytest.raises(type(error)) as raised:
        ask(upstreams(clock, gateway), stream=stream)
    assert raised.value.attempts == len(gateway.calls) == 1
    assert clock.passed == 0


@pytest.mark.parametrize("error", [*RETRIED, *ELSEWHERE_ONLY], ids=named)
def test_the_next_provider_is_asked_at_once(
    clock: FakeClock, error: UpstreamError, *, stream: bool
) -> None:
    first, second, third = failing(error), ScriptedGateway("second"), ScriptedGateway("third")
    assert ask(upstreams(clock, first, second, third), stream=stream) == ("second", 2)
    assert (len(first.calls), len(third.calls), clock.passed) == (1, 0, 0)


def test_a_failure_that_may_be_billed_does_not_go_to_the_next(
    clock: FakeClock, *, stream: bool
) -> None:
    second = ScriptedGateway("second")
    with pytest.raises(UpstreamTimeout):
        ask(upstreams(clock, failing(UpstreamTimeout()), second), stream=stream)
    assert second.calls == []


def test_a_stream_that_has_begun_is_not_tried_again(clock: FakeClock) -> None:
    broken = Script(chunks=("Half",), raises=UpstreamError(upstream_status=500))
    gateway = ScriptedGateway(broken, "fine")
    with pytest.raises(UpstreamError), upstreams(clock, gateway).stream(REQUEST) as deltas:
        list(deltas)
    assert len(gateway.calls) == 1


def test_a_provider_that_is_left_alone_is_not_called(clock: FakeClock, *, stream: bool) -> None:
    gateway = failing(UpstreamTimeout())
    several = upstreams(clock, gateway)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=stream)
    with pytest.raises(UpstreamUnavailable) as raised:
        ask(several, stream=stream)
    assert (raised.value.retry_after_seconds, raised.value.attempts) == (10, 0)
    assert len(gateway.calls) == 5
    assert several.condition() == "degraded: n0 is left alone for now (upstream_timeout)"


class Speechless(ScriptedGateway):
    """Sends its head and a heartbeat, and perhaps a word, before each stream's script."""

    def __init__(self, *scripts: Script | str, word: str = "") -> None:
        super().__init__(*scripts)
        self._word = word

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        script = self._next(request)

        def deltas() -> Iterator[Delta]:
            yield from (Delta(upstream_request_id="req_1"), Delta(), Delta(text=self._word))
            if script.raises is not None:
                raise script.raises
            yield Delta(text="".join(script.chunks), finish_reason="stop")

        yield deltas()


@pytest.mark.parametrize("word", ["", "Hel"])
def test_a_provider_whose_streams_all_end_in_silence_is_left_alone(
    clock: FakeClock, word: str
) -> None:
    gateway = Speechless(Script(raises=UpstreamTimeout()), word=word)
    several = upstreams(clock, gateway)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=True)
    with pytest.raises(UpstreamUnavailable):
        ask(several, stream=True)
    assert len(gateway.calls) == 5


def test_a_head_alone_does_not_bring_a_provider_back(clock: FakeClock) -> None:
    gateway = Speechless(Script(raises=UpstreamTimeout()))
    several = upstreams(clock, gateway)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=True)
    clock.passed += 10
    with several.stream(REQUEST) as probe:
        next(probe)
        with pytest.raises(UpstreamUnavailable):
            ask(several, stream=True)
    assert several.condition() != "ok"


@pytest.mark.parametrize(
    ("delta", "answers"),
    [
        (Delta(events=(b"{}",)), False),
        (Delta(usage=Usage(prompt_tokens=9, completion_tokens=0)), False),
        (Delta(usage=Usage(prompt_tokens=9, completion_tokens=8), is_head=True), False),
        (Delta(usage=Usage(prompt_tokens=9, completion_tokens=1)), True),
        (Delta(said_bytes=9), True),
        (Delta(finish_reason="stop"), True),
    ],
    ids=[
        *("a head", "a count of the prompt", "Anthropic's head", "a count of words"),
        *("a thought", "an end"),
    ],
)
def test_a_thought_is_an_answer_too_and_a_head_is_none(
    clock: FakeClock, delta: Delta, answers: bool
) -> None:
    class Thinking(ScriptedGateway):
        @contextmanager
        def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
            script = self._next(request)
            if script.raises is not None:
                raise script.raises
            yield iter([delta, Delta(text="word", finish_reason="stop")])

    several = upstreams(clock, Thinking(*[Script(raises=UpstreamTimeout())] * 5, "fine"))
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=True)
    clock.passed += 10
    with several.stream(REQUEST) as probe:
        assert next(probe) == delta
        assert (several.condition() == "ok") == answers


def test_a_first_word_brings_a_provider_back(clock: FakeClock) -> None:
    gateway = Speechless(*[Script(raises=UpstreamTimeout())] * 5, "fine", word="Hel")
    several = upstreams(clock, gateway)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=True)
    clock.passed += 10
    with several.stream(REQUEST) as probe:
        while not next(probe).text:
            pass
        assert several.condition() == "ok"
        assert ask(several, stream=True) == ("Helfine", 1)


def test_streams_that_clients_leave_are_good_news_of_the_provider(clock: FakeClock) -> None:
    fails = Script(raises=UpstreamTimeout())
    gateway = ScriptedGateway(*[fails] * 4, "left", *[fails] * 4, "fine")
    several = upstreams(clock, gateway)
    for _ in range(4):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=True)
    with several.stream(REQUEST) as deltas:
        next(deltas)
    for _ in range(4):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=True)
    assert ask(several, stream=True) == ("fine", 1)


def test_a_provider_that_is_back_is_asked_again(clock: FakeClock, *, stream: bool) -> None:
    gateway = ScriptedGateway(*[Script(raises=UpstreamTimeout())] * 5, "fine")
    several = upstreams(clock, gateway)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            ask(several, stream=stream)
    clock.passed += 10
    assert ask(several, stream=stream) == ("fine", 1)
    assert several.condition() == "ok"


def test_the_next_provider_is_the_first_while_the_first_is_left_alone(clock: FakeClock) -> None:
    first, second = failing(UpstreamTimeout()), ScriptedGateway("second")
    several = upstreams(clock, first, second)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            several.complete(REQUEST)
    assert ask(several, stream=False) == ("second", 1)
    assert len(first.calls) == 5


def test_the_probe_that_fails_is_not_tried_again(clock: FakeClock) -> None:
    gateway = failing(UpstreamUnreachable())
    several = upstreams(clock, gateway)
    for _ in range(3):
        with pytest.raises(UpstreamUnreachable):
            several.complete(REQUEST)
    assert len(gateway.calls) == 5  # the fifth failure opened the breaker
    clock.passed += 10
    with pytest.raises(UpstreamUnreachable):
        several.complete(REQUEST)
    assert len(gateway.calls) == 6


@pytest.mark.parametrize(
    "error", [UpstreamRejected(upstream_status=400), UpstreamModelUnavailable(upstream_status=503)]
)
def test_a_refusal_of_the_request_says_that_the_provider_is_well(
    error: UpstreamError, clock: FakeClock
) -> None:
    gateway = failing(error)
    several = upstreams(clock, gateway)
    for _ in range(30):
        with pytest.raises(type(error)):
            several.complete(REQUEST)
    assert len(gateway.calls) == 30


def test_a_client_that_leaves_a_probing_stream_lets_the_next_one_probe(clock: FakeClock) -> None:
    gateway = ScriptedGateway(*[Script(raises=UpstreamTimeout())] * 5, "fine")
    several = upstreams(clock, gateway)
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            several.complete(REQUEST)
    clock.passed += 10
    with several.stream(REQUEST):
        pass
    assert ask(several, stream=False) == ("fine", 1)


def test_both_attempts_share_the_time(clock: FakeClock) -> None:
    gateway = failing(UpstreamUnreachable(), "fine")
    upstreams(clock, gateway, total_seconds=30).complete(REQUEST)
    assert [call.within_seconds for call in gateway.calls] == [30, 29.5]


def test_where_no_time_is_left_nobody_else_is_asked(clock: FakeClock) -> None:
    class Slow(ScriptedGateway):
        def complete(self, request: CompletionRequest) -> Completion:
            clock.passed += 30
            return super().complete(request)

    other = ScriptedGateway("fine")
    slow = Slow(Script(raises=UpstreamError(upstream_status=500)))
    with pytest.raises(UpstreamError):
        upstreams(clock, slow, other, total_seconds=30).complete(REQUEST)
    assert other.calls == []


def test_many_second_attempts_do_not_come_at_the_same_moment() -> None:
    waits = {jitter() for _ in range(100)}
    assert len(waits) > 50
    assert min(waits) >= 0.2
    assert max(waits) <= 1


def test_a_call_that_is_interrupted_is_not_tried_again(clock: FakeClock, *, stream: bool) -> None:
    gateway = failing(KeyboardInterrupt(), "fine")
    with pytest.raises(KeyboardInterrupt):
        ask(upstreams(clock, gateway), stream=stream)
    assert len(gateway.calls) == 1


def test_without_time_there_is_no_second_attempt(clock: FakeClock) -> None:
    gateway = failing(UpstreamUnreachable(), "fine")
    with pytest.raises(UpstreamUnreachable):
        upstreams(clock, gateway, total_seconds=0.5).complete(REQUEST)
    assert (len(gateway.calls), clock.passed) == (1, 0)


def test_whoever_left_is_not_worth_a_second_attempt(clock: FakeClock) -> None:
    gateway = failing(UpstreamUnreachable(), "fine")
    request = CompletionRequest(model="m", still_wanted=lambda: False)
    with pytest.raises(UpstreamUnreachable):
        upstreams(clock, gateway).complete(request)
    assert len(gateway.calls) == 1


def test_whoever_leaves_during_the_wait_is_not_worth_a_second_attempt(clock: FakeClock) -> None:
    gateway = failing(UpstreamUnreachable(), "fine")
    came = clock.monotonic()
    request = CompletionRequest(model="m", still_wanted=lambda: clock.monotonic() == came)
    with pytest.raises(UpstreamUnreachable):
        upstreams(clock, gateway).complete(request)
    assert clock.monotonic() > came
    assert len(gateway.calls) == 1


def test_an_answer_that_is_kept_is_worth_a_second_attempt_whoever_has_left(
    make_service: MakeService, clock: FakeClock
) -> None:
    service = make_service(upstreams(clock, failing(UpstreamUnreachable(), "fine")))
    left = ChatRequest(user_id="ada", prompt="Hello", still_wanted=lambda: False)
    assert service.reply(left).text == "fine"


class Meeting(FakeClock):
    """The first three that wait for a second attempt wait until a test lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Semaphore(0)
        self.places = 3
        self.go = threading.Event()

    def sleep(self, seconds: float) -> None:
        self.places -= 1
        assert self.places >= 0 or self.go.is_set(), "a fourth waits"
        self.waiting.release()
        self.go.wait()


@pytest.mark.parametrize("ended", [0, 20])
def test_three_calls_at_once_may_be_second_attempts_or_a_fifth_of_all(ended: int) -> None:
    clock = Meeting()
    script = Script(raises=UpstreamError(upstream_status=409))  # the breaker does not mind
    gateway = ScriptedGateway(*("fine" for _ in range(ended)), script)
    several = upstreams(clock, gateway)

    def call() -> None:
        with suppress(UpstreamError):
            several.complete(REQUEST)

    for _ in range(ended):  # what is over counts no more
        call()
    retrying = [threading.Thread(target=call, daemon=True) for _ in range(3)]
    for thread in retrying:
        thread.start()
        clock.waiting.acquire()
    call()  # a fourth: it fails without a second attempt
    assert len(gateway.calls) == ended + 4
    clock.go.set()
    for thread in retrying:
        thread.join()
    assert len(gateway.calls) == ended + 7
    call()
    assert len(gateway.calls) == ended + 9


def test_the_models_come_from_whoever_tells_them(clock: FakeClock) -> None:
    class Silent(ScriptedGateway):
        def models(self) -> Any:
            raise UpstreamUnreachable

    cards = [ModelCard(id="m", facts={"id": "m"})]
    assert upstreams(clock, Silent("x"), ScriptedGateway("y", models=cards)).models() == cards


@pytest.fixture
def outcomes(
    make_service: MakeService, store: MemoryStore, *, stream: bool
) -> Callable[[Upstreams], tuple[str, str | None, int]]:
    """Return what asks a service once, and tells what was stored of it."""

    def ask_service(gateway: Upstreams) -> tuple[str, str | None, int]:
        service = make_service(gateway)
        request = ChatRequest(user_id="ada", prompt="Hello", request_id="one")
        with suppress(ChatportError):
            if stream:
                list(service.stream(request))
            else:
                service.reply(request)
        exchange = store.find("one")
        assert exchange is not None
        return exchange.state, exchange.error_code, exchange.attempts

    return ask_service


def test_the_log_says_how_often_the_provider_was_called(outcomes: Any, clock: FakeClock) -> None:
    assert outcomes(upstreams(clock, failing(UpstreamUnreachable(), "fine"))) == (
        "completed",
        None,
        2,
    )


def test_the_log_counts_the_attempts_of_a_failure(outcomes: Any, clock: FakeClock) -> None:
    failed = ("failed", "upstream_unreachable", 2)
    assert outcomes(upstreams(clock, failing(UpstreamUnreachable()))) == failed


@pytest.mark.parametrize(
    ("end", "state"), [(CallerGone(), "cancelled"), (SystemExit(), "interrupted")]
)
def test_the_log_counts_both_attempts_of_a_call_that_nobody_waits_for(
    outcomes: Any, clock: FakeClock, store: MemoryStore, end: BaseException, state: str
) -> None:
    gateway = ScriptedGateway(Script(raises=UpstreamUnreachable()), Script(raises=end))
    with suppress(SystemExit):
        outcomes(upstreams(clock, gateway))
    exchange = store.find("one")
    assert exchange is not None
    assert (exchange.state, exchange.attempts) == (state, 2)


def test_the_log_counts_no_attempt_while_the_provider_is_left_alone(
    outcomes: Any, clock: FakeClock
) -> None:
    several = upstreams(clock, failing(UpstreamTimeout()))
    for _ in range(5):
        with pytest.raises(UpstreamTimeout):
            several.complete(REQUEST)
    assert outcomes(several) == ("failed", "upstream_unavailable", 0)


def test_the_log_counts_both_attempts_of_a_stream_that_broke(
    make_service: MakeService, store: MemoryStore, clock: FakeClock
) -> None:
    broken = Script(chunks=("Half",), raises=UpstreamDisconnected())
    gateway = ScriptedGateway(Script(raises=UpstreamUnreachable()), broken)
    service = make_service(upstreams(clock, gateway))
    with pytest.raises(UpstreamDisconnected):
        list(service.stream(ChatRequest(user_id="ada", prompt="Hello", request_id="one")))
    exchange = store.find("one")
    assert exchange is not None
    assert (exchange.attempts, exchange.reply) == (2, "Half")
