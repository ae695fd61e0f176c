"""A provider that does one thing wrong after the other, and sends it in whatever pieces.

A call may be made again at most once, so its end follows from the two answers alone, as the table
of faults has them; and the next call is a good one, whatever has come over the connection before.
"""

import logging
import random
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from chatport.adapters import upstream_transport
from chatport.domain.model import LogQuery, State
from integration.faults import AMPLE_SECONDS, SOON
from integration.relaying import PATH as V1
from integration.relaying import SEED
from integration.upstream import Answer, Then, Upstream, running_upstream
from torture import times

from .calls import Service, ask, check_log, check_row, check_told
from .modes import ELSEWHERE, HELLO_EVENTS, HELLO_JSON, Ending, Half, Mode, Place
from .test_modes import MODES

SEEDS = times(2, 80)
EACH = 25
NOBODY = b"127.0.0.1:9"


def _goes_on(mode: Mode) -> bool:
    """Return whether the provider answers again: not on a connection that it keeps, and leaves."""
    whole = (half for half in (mode.plain, mode.stream) if half.ending.code is None)
    return not any(half.script[0].then is Then.HANG for half in whole)


FIRST = [mode for mode in MODES if mode.place is Place.HERE and _goes_on(mode)]
SECOND = [
    mode for mode in FIRST if len(mode.plain.script) == 1 and mode.timeout_seconds >= AMPLE_SECONDS
]
"""What comes as an answer to the second attempt: nothing that shows only in a third."""


@dataclass(frozen=True, slots=True)
class Composition:
    """A call, and what the provider answers to its first attempt and to its second."""

    path: str
    stream: bool
    first: Mode
    second: Mode

    @classmethod
    def of(cls, chance: random.Random) -> "Composition":
        """Return one of all that there are."""
        path, stream = chance.choice((SEED, V1)), chance.random() < 0.5
        return cls(path, stream, chance.choice(FIRST), chance.choice(SECOND))

    def __str__(self) -> str:
        way = f"{self.path}, {'streamed' if self.stream else 'whole'}"
        return f"{way}: the provider {self.first.name}, and then {self.second.name}"

    def ending(self) -> Ending:
        """Return what must become of the call."""
        first, second = (self._ending(mode) for mode in (self.first, self.second))
        return first if first.calls == 1 else replace(second, calls=2)

    def script(self) -> list[Answer]:
        """Return what the provider answers to the attempts that are made."""
        made = (self.first, self.second)[: self.ending().calls]
        answers = [self._half(mode).script[0] for mode in made]
        return [replace(each, data=each.data.replace(ELSEWHERE, NOBODY)) for each in answers]

    def _half(self, mode: Mode) -> Half:
        return mode.stream if self.stream else mode.plain

    def _ending(self, mode: Mode) -> Ending:
        if self.path == V1 and mode.relayed:
            return mode.relayed[self.stream]
        return self._half(mode).ending


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_transport, "ERROR_SECONDS", SOON)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_one_fault_after_the_other_ends_as_the_table_says_and_leaves_nothing_behind(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chance = random.Random(seed)
    for _ in range(EACH):
        composition = Composition.of(chance)
        with running_upstream() as upstream:
            upstream.cuts = random.Random(chance.random())
            service = Service(upstream.url, composition.first.timeout_seconds)
            with closing(service.gateway):
                try:
                    check(composition, service, upstream)
                    check_log(caplog.text)
                except Exception as error:
                    error.add_note(str(composition))
                    raise
        caplog.clear()


def check(composition: Composition, service: Service, upstream: Upstream) -> None:
    """Check what becomes of the call, and of a good one after it."""
    path, stream, ending = composition.path, composition.stream, composition.ending()
    script = composition.script()
    upstream.plays(*script, Answer(HELLO_EVENTS if stream else HELLO_JSON))
    within = composition.first.within + composition.second.within
    response = ask(service, path, stream=stream, within=within)

    check_told(response, path, ending)
    row = service.row()
    check_row(row, response, ending)
    assert path == V1 or row.reply == ending.reply
    assert len(upstream.received) == ending.calls == len(service.clock.slept) + 1

    gone = sum(each.then is not Then.KEEP for each in script)
    assert upstream.sees_the_end_of(gone)
    response = ask(service, path, stream=stream, within=AMPLE_SECONDS)
    last = service.store.search(LogQuery())[0]
    assert (response.status_code, last.state, last.reply) == (200, State.COMPLETED, "Hello")
    assert len(upstream.received) == ending.calls + 1
