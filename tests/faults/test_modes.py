"""Everything that a provider is known to do wrong, and what exactly becomes of each call."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial

import pytest

from chatport.adapters import upstream_transport
from integration.faults import SOON
from integration.relaying import PATH as V1
from integration.relaying import SEED
from integration.upstream import Answer, Upstream, running_upstream
from torture import THOROUGH, TORTURE

from .answers import WITHIN
from .calls import Service, ask, check_log, check_row, check_told
from .modes import ELSEWHERE, Ending, Half, Mode, Place
from .places import address
from .refusals import BEFORE

MODES = (*BEFORE, *WITHIN)
SEEDS = (None, 1, 2)
modes = partial(pytest.mark.parametrize, "mode", ids=lambda mode: mode.name)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


Serve = Callable[[Mode, Half], Service]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the rest of a refusal for less than two seconds; the call has ten."""
    monkeypatch.setattr(upstream_transport, "ERROR_SECONDS", SOON)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Before a release, play each mode also in pieces, cut at two times some places."""
    if TORTURE and "mode" in metafunc.fixturenames:
        metafunc.parametrize("seed", SEEDS, indirect=True)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int | None:
    """Return where answers are cut; None to send them whole."""
    return getattr(request, "param", None)


@pytest.fixture
def upstream(seed: int | None) -> Iterator[Upstream]:
    """Return a provider that has no script yet."""
    with running_upstream() as upstream:
        upstream.cuts = None if seed is None else random.Random(seed)
        yield upstream


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Upstream]:
    """Return a listener that nobody may connect to."""
    with running_upstream() as elsewhere:
        yield elsewhere
        assert elsewhere.connections == 0


@pytest.fixture
def serve(upstream: Upstream, elsewhere: Upstream) -> Iterator[Serve]:
    """Return a function that makes an application whose provider does something wrong."""
    with ExitStack() as stack:

        def serve(mode: Mode, half: Half) -> Service:
            upstream.plays(*(_to(elsewhere, answer) for answer in half.script))
            url = stack.enter_context(address(mode.place, upstream))
            service = Service(url, mode.timeout_seconds)
            stack.enter_context(closing(service.gateway))
            return service

        yield serve


def _to(elsewhere: Upstream, answer: Answer) -> Answer:
    return replace(answer, data=answer.data.replace(ELSEWHERE, elsewhere.host.encode()))


def check_calls(mode: Mode, upstream: Upstream, ending: Ending) -> None:
    """Check how often the provider was asked, and that no connection to it stays open."""
    calls = ending.calls if mode.place is Place.HERE else 0
    assert len(upstream.received) == calls
    assert upstream.sees_the_end_of(upstream.connections)


@both_ways
@modes(MODES if THOROUGH else MODES[::2])
def test_a_fault_has_its_status_its_code_its_row_and_its_time(
    serve: Serve,
    upstream: Upstream,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
    *,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO)
    half = mode.stream if stream else mode.plain
    service = serve(mode, half)
    response = ask(service, SEED, stream=stream, within=mode.within)

    check_told(response, SEED, half.ending)
    row = service.row()
    check_row(row, response, half.ending)
    assert row.reply == half.ending.reply
    assert len(service.clock.slept) == half.ending.calls - 1
    check_log(caplog.text)
    service.gateway.close()
    check_calls(mode, upstream, half.ending)


@both_ways
@modes(MODES if THOROUGH else MODES[1::2])
def test_a_fault_of_a_relayed_call_ends_as_it_should(
    serve: Serve,
    upstream: Upstream,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
    *,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO)
    half = mode.stream if stream else mode.plain
    ending = mode.relayed[stream] if mode.relayed else half.ending
    service = serve(mode, half)
    response = ask(service, V1, stream=stream, within=mode.within)

    check_told(response, V1, ending)
    check_row(service.row(), response, ending)
    check_log(caplog.text)
    service.gateway.close()
    check_calls(mode, upstream, ending)


def test_the_table_is_as_long_as_it_should_be() -> None:
    names = {mode.name for mode in MODES}
    assert len(names) == len(MODES) >= 60
