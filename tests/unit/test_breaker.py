"""The breaker: when a provider is left alone, and how it comes back."""

import pytest

from chatport.domain.breaker import CONSECUTIVE_FAILURES, REMEMBERED_CALLS, Breaker, Call
from chatport.domain.errors import (
    UpstreamAuthFailed,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamInvalidResponse,
    UpstreamOverloaded,
    UpstreamQuotaExhausted,
    UpstreamTimeout,
    UpstreamUnreachable,
)

from .conftest import FakeClock

FAILURES = (
    (UpstreamTimeout(), 10.0),
    (UpstreamUnreachable(), 10.0),
    (UpstreamOverloaded(upstream_status=503), 10.0),
    (UpstreamError(upstream_status=500), 10.0),
    (UpstreamError(upstream_status=504), 10.0),
    (UpstreamAuthFailed(upstream_status=401), 60.0),
    (UpstreamQuotaExhausted(upstream_status=429), 60.0),
)


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(clock)


def call(breaker: Breaker) -> Call:
    admitted = breaker.admit()
    assert isinstance(admitted, Call)
    return admitted


def fail(breaker: Breaker, times: int = CONSECUTIVE_FAILURES) -> None:
    for _ in range(times):
        call(breaker).failed(UpstreamUnreachable())


@pytest.mark.parametrize(
    ("error", "seconds"), FAILURES, ids=[f"{e.code}-{e.upstream_status}" for e, _ in FAILURES]
)
def test_it_opens_after_five_failures_in_a_row(
    breaker: Breaker, clock: FakeClock, error: UpstreamError, seconds: float
) -> None:
    for _ in range(CONSECUTIVE_FAILURES):
        assert breaker.opened_by is None
        call(breaker).failed(error)
    assert breaker.opened_by is error
    assert breaker.admit() == seconds
    clock.passed += seconds - 2.5
    assert breaker.admit() == 2.5
    clock.passed += 2.5
    call(breaker)


def test_a_success_in_between_begins_the_row_anew(breaker: Breaker) -> None:
    fail(breaker, CONSECUTIVE_FAILURES - 1)
    call(breaker).succeeded()
    fail(breaker, CONSECUTIVE_FAILURES - 1)
    call(breaker)


def test_it_opens_when_more_than_half_of_the_last_twenty_failed(breaker: Breaker) -> None:
    for _ in range(REMEMBERED_CALLS // 4):
        fail(breaker, 2)
        call(breaker).succeeded()
        call(breaker).succeeded()
    call(breaker).forgotten()  # just half of them failed
    fail(breaker, 3)
    assert breaker.admit() == 10


@pytest.mark.parametrize(
    "error",
    [UpstreamDisconnected(), UpstreamInvalidResponse(), UpstreamError(), KeyboardInterrupt()],
    ids=repr,
)
def test_what_is_not_the_providers_condition_does_not_count(
    breaker: Breaker, error: BaseException
) -> None:
    for _ in range(REMEMBERED_CALLS):
        call(breaker).failed(error)
    call(breaker)


def test_one_call_alone_probes(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker)
    clock.passed += 10
    call(breaker)
    assert [breaker.admit() for _ in range(2)] == [1, 1]


def test_a_probe_that_succeeds_closes_it(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker)
    clock.passed += 10
    call(breaker).succeeded()
    assert breaker.opened_by is None
    fail(breaker, CONSECUTIVE_FAILURES - 1)
    call(breaker)


def test_a_probe_that_succeeds_forgets_the_last_twenty(breaker: Breaker, clock: FakeClock) -> None:
    for _ in range(REMEMBERED_CALLS // 4):
        fail(breaker, 2)
        call(breaker).succeeded()
        call(breaker).succeeded()
    fail(breaker, 3)
    clock.passed += 10
    call(breaker).succeeded()
    fail(breaker, CONSECUTIVE_FAILURES - 1)
    call(breaker)


def test_a_probe_that_fails_opens_it_anew(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker)
    clock.passed += 10
    fail(breaker, 1)
    assert breaker.admit() == 10


def test_a_probe_that_says_nothing_lets_the_next_one_probe(
    breaker: Breaker, clock: FakeClock
) -> None:
    fail(breaker)
    clock.passed += 10
    call(breaker).forgotten()
    call(breaker)
    assert breaker.admit() == 1


@pytest.mark.parametrize("end", ["succeeded", "failed", "forgotten"])
def test_an_old_call_that_ends_at_last_does_not_disturb_the_probe(
    breaker: Breaker, clock: FakeClock, end: str
) -> None:
    old = call(breaker)
    fail(breaker)
    clock.passed += 10
    probe = call(breaker)
    if end == "failed":
        old.failed(UpstreamUnreachable())
    else:
        getattr(old, end)()
    assert breaker.admit() == 1
    probe.succeeded()
    call(breaker)


def test_stragglers_do_not_prolong_the_wait(breaker: Breaker, clock: FakeClock) -> None:
    old = call(breaker)
    fail(breaker)
    clock.passed += 9
    old.failed(UpstreamUnreachable())
    assert breaker.admit() == 1
