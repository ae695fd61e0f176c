"""OpenAI's rate limit headers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatport.domain.allowance import Allowance, Charge
from chatport.domain.rules import Limit, Unit
from chatport.entrypoints.limit_headers import duration, limit_headers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.999, "999ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.001, "2s"),
        (59, "59s"),
        (59.001, "1m0s"),
        (60, "1m0s"),
        (61.5, "1m2s"),
        (360, "6m0s"),
        (3599.001, "1h0m0s"),
        (3600, "1h0m0s"),
        (86400, "24h0m0s"),
        (86399.5, "24h0m0s"),
        (2_592_000, "720h0m0s"),
    ],
)
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e7))
def test_a_duration_is_never_shorter_than_the_time_it_tells(seconds: float) -> None:
    units = {"ms": 0.001, "h": 3600, "m": 60, "s": 1}
    text, told = duration(seconds), 0.0
    while text:
        digits = text[: next(at for at, char in enumerate(text) if not char.isdigit())]
        unit = "ms" if text[len(digits) :].startswith("ms") else text[len(digits)]
        told += int(digits) * units[unit]
        text = text[len(digits) + len(unit) :]
    assert seconds - 1e-9 <= told < seconds + 1.001


def test_the_headers_are_those_of_the_nearest_limit() -> None:
    def left(remaining: int, amount: int, unit: Unit = Unit.REQUESTS) -> Allowance:
        limit = Limit(amount=amount, window_seconds=60, unit=unit)
        charge = Charge(rule="user", key="anonymous/ada", limit=limit)
        return Allowance(charge=charge, remaining=remaining, reset_seconds=3.001)

    assert limit_headers([left(19, 20), left(18, 18), left(7, 1000, Unit.TOKENS)]) == {
        "x-ratelimit-limit-requests": "18",
        "x-ratelimit-remaining-requests": "18",
        "x-ratelimit-reset-requests": "4s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "7",
        "x-ratelimit-reset-tokens": "4s",
    }
    assert set(limit_headers([left(1, 2, Unit.TOKENS)])) == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    }


def test_there_are_no_headers_where_there_is_no_limit() -> None:
    assert limit_headers([]) == {}


def test_a_wait_without_end_has_no_header() -> None:
    limit = Limit(amount=20, window_seconds=60, unit=Unit.TOKENS)
    charge = Charge(rule="user", key="anonymous/ada", limit=limit, amount=21)
    never = Allowance(charge=charge, remaining=20, reset_seconds=math.inf, admitted=False)
    assert limit_headers([never]) == {
        "x-ratelimit-limit-tokens": "20",
        "x-ratelimit-remaining-tokens": "20",
    }
