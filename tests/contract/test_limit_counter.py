"""The contract of LimitCounter, and what the sliding window counter promises with it."""

import subprocess
import sys
import threading
from typing import Any

import pytest

from chatport.adapters import LimitsCounter, WindowTable
from chatport.domain import Charge, Limit, LimitCounter
from chatport.domain.rules import parse_limits

MINUTE = Limit(amount=20, window_seconds=60)
DAY = Limit(amount=500, window_seconds=86_400)


class FakeTime:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def counter(time: FakeTime) -> LimitCounter:
    return LimitsCounter(WindowTable(slots=1024, monotonic=time))


def charge(limit: Limit = MINUTE, key: str = "ada") -> Charge:
    return Charge(rule="user", key=key, limit=limit)


def admits(counter: LimitCounter, *charges: Charge) -> bool:
    return all(allowance.admitted for allowance in counter.take(charges))


def test_a_limit_admits_its_amount_and_says_what_is_left(counter: LimitCounter) -> None:
    remaining = [counter.take([charge()])[0].remaining for _ in range(20)]
    assert remaining == list(range(19, -1, -1))
    assert not admits(counter, charge())


def test_keys_rules_and_limits_count_separately(counter: LimitCounter) -> None:
    for _ in range(20):
        assert admits(counter, charge())
    assert admits(counter, charge(key="bob"))
    assert admits(counter, charge(DAY))
    assert admits(counter, Charge(rule="total", key="ada", limit=MINUTE))


def test_a_refusal_consumes_nothing(counter: LimitCounter, time: FakeTime) -> None:
    for _ in range(20):
        admits(counter, charge())
    for _ in range(1_000):
        assert not admits(counter, charge())
    time.now += 63.1
    assert admits(counter, charge())


def test_if_one_of_several_limits_refuses_none_is_charged(counter: LimitCounter) -> None:
    for _ in range(20):
        assert admits(counter, charge())
    for _ in range(50):
        assert not admits(counter, charge(DAY), charge(MINUTE))
    assert counter.take([charge(DAY)])[0].remaining == 499


@pytest.mark.parametrize("pause", [0.0, 10.0, 59.0, 61.0, 75.0, 100.0])
def test_the_waiting_time_is_true(counter: LimitCounter, time: FakeTime, pause: float) -> None:
    for _ in range(10):
        admits(counter, charge())
    time.now += pause
    while admits(counter, charge()):
        pass
    wait = counter.take([charge()])[0].reset_seconds
    began = time.now
    time.now = began + wait - 0.01
    assert not admits(counter, charge())
    time.now = began + wait
    assert admits(counter, charge())


def test_a_burst_from_rest_is_held_to_the_limit_for_a_whole_window(
    counter: LimitCounter, time: FakeTime
) -> None:
    time.now += 59.9  # wherever the clock stands
    admitted = 0
    for _ in range(600):
        admitted += admits(counter, charge())
        time.now += 0.1
    assert admitted == 20


def test_after_two_idle_windows_everything_is_free_again(
    counter: LimitCounter, time: FakeTime
) -> None:
    while admits(counter, charge()):
        pass
    time.now += 120
    assert counter.take([charge()])[0].remaining == 19


def test_64_threads_get_exactly_the_limit(counter: LimitCounter) -> None:
    outcomes: list[bool] = []

    def hammer() -> None:
        for _ in range(10):
            outcomes.append(admits(counter, charge(), charge(DAY)))

    threads = [threading.Thread(target=hammer) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcomes) == 20


def test_under_more_keys_than_slots_a_key_in_use_is_never_forgotten(time: FakeTime) -> None:
    table = WindowTable(slots=64, monotonic=time)
    counter = LimitsCounter(table)
    busy = charge(Limit(amount=10_000, window_seconds=86_400), "busy")
    for n in range(1_000):
        time.now += 0.001
        assert admits(counter, charge(Limit(amount=1, window_seconds=60), f"user-{n}"))
        assert counter.take([busy])[0].remaining == 9_999 - n
    assert len(table._memory) == 64 * 40


def test_the_window_before_still_weighs_after_the_window_moved(
    counter: LimitCounter, time: FakeTime
) -> None:
    admits(counter, charge())
    time.now += 59
    while admits(counter, charge()):
        pass
    time.now += 2
    assert sum(admits(counter, charge()) for _ in range(20)) == 1


def test_windows_are_read_and_written_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    table = WindowTable(slots=64)
    window = table._window

    def guarded(*arguments: Any) -> Any:
        assert table.lock._threads.locked()
        return window(*arguments)

    monkeypatch.setattr(table, "_window", guarded)
    assert admits(LimitsCounter(table), charge())


FORKED = """
import os
from chatport.adapters import LimitsCounter, WindowTable
from chatport.domain import Charge, Limit
counter = LimitsCounter(WindowTable(slots=64))
charge = Charge(rule="user", key="ada", limit=Limit(amount=4_000, window_seconds=3600))
children = []
for _ in range(4):
    read, write = os.pipe()
    if os.fork() == 0:
        admitted = sum(counter.take([charge])[0].admitted for _ in range(2_000))
        os.write(write, str(admitted).encode())
        os._exit(0)
    children.append(read)
for _ in children: os.wait()
print(sum(int(os.read(child, 16)) for child in children))
"""


def test_four_processes_that_share_a_table_get_exactly_the_limit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "4000\n"


def test_the_table_can_be_cleared(time: FakeTime) -> None:
    table = WindowTable(slots=64, monotonic=time)
    counter = LimitsCounter(table)
    admits(counter, charge())
    table.clear_sliding_window("user/requests/20/60/ada", 60)
    assert counter.take([charge()])[0].remaining == 19
    table.reset()
    assert counter.take([charge()])[0].remaining == 19


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", ()),
        ("  ", ()),
        ("20/minute", (MINUTE,)),
        ("20/minute;500/day", (MINUTE, DAY)),
        ("20 per minute, 500 per day", (MINUTE, DAY)),
        ("5 per 10 seconds", (Limit(amount=5, window_seconds=10),)),
    ],
)
def test_limits_are_parsed_in_the_librarys_notation(text: str, limits: tuple[Limit, ...]) -> None:
    assert parse_limits(text) == limits


@pytest.mark.parametrize("text", ["lots", "20/fortnight", "0/minute", "-5/minute", "20"])
def test_other_notations_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_limits(text)
