"""What tokens cost at a given price: the arithmetic."""

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatport.adapters import Price
from chatport.domain.model import Usage

MINI = Price(input=Decimal("0.15"), output=Decimal("0.60"), cached_input=Decimal("0.075"))
MILLION = Usage(prompt_tokens=1_000_000, completion_tokens=1_000_000)

COUNTS = st.integers(0, 2**31 - 1)
PRICES = st.decimals(0, 1000, places=6)


def usage(prompt: int, completion: int, cached: int = 0) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


@pytest.mark.parametrize(
    ("tokens", "nanodollars"),
    [
        (usage(0, 0), 0),
        (usage(1, 0), 150),
        (usage(0, 1), 600),
        (usage(1000, 100), 210_000),
        (usage(1000, 100, cached=400), 180_000),
        (usage(1000, 0, cached=1000), 75_000),
        (MILLION, 750_000_000),
    ],
)
def test_tokens_cost_their_price_in_nanodollars(tokens: Usage, nanodollars: int) -> None:
    assert MINI.cost(tokens) == nanodollars


@pytest.mark.parametrize(
    ("tokens", "nanodollars"),
    [(usage(1, 0), 1), (usage(3, 0), 1), (usage(4, 0), 2), (usage(3, 1), 2), (usage(0, 0), 0)],
)
def test_the_sum_is_rounded_up_and_not_its_parts(tokens: Usage, nanodollars: int) -> None:
    third = Price(input=Decimal("0.00033"), output=Decimal("0.00034"))
    assert third.cost(tokens) == nanodollars


def test_a_price_of_more_digits_than_are_counted_is_rounded_up_too() -> None:
    price = Price(input=Decimal(f"1.{'0' * 150}1"), output=Decimal(0))
    assert price.cost(usage(1, 0)) == 1001


def test_the_highest_price_is_a_dollar_a_token() -> None:
    price = Price(input=Decimal(1_000_000), output=Decimal(0))
    assert price.cost(usage(1, 0)) == 1_000_000_000


def test_what_is_cached_costs_as_much_as_the_rest_if_nothing_else_is_said() -> None:
    price = Price(input=Decimal(2), output=Decimal(0))
    assert price.cost(usage(10, 0, cached=7)) == price.cost(usage(10, 0)) == 20_000


def test_counts_that_make_no_sense_are_read_as_the_nearest_that_do() -> None:
    assert MINI.cost(usage(10, 0, cached=99)) == MINI.cost(usage(10, 0, cached=10))
    assert MINI.cost(usage(10, 0, cached=-5)) == MINI.cost(usage(10, 0))
    assert MINI.cost(usage(-10, -1, cached=3)) == 0


@given(prompt=COUNTS, completion=COUNTS, data=st.data(), each=st.tuples(PRICES, PRICES, PRICES))
def test_the_arithmetic_is_exact(
    prompt: int, completion: int, data: st.DataObject, each: tuple[Decimal, Decimal, Decimal]
) -> None:
    cached = data.draw(st.integers(0, prompt))
    price = Price(input=each[0], output=each[1], cached_input=each[2])
    parts = zip((prompt - cached, completion, cached), each, strict=True)
    exact = sum(count * Fraction(amount) * 1000 for count, amount in parts)
    assert price.cost(usage(prompt, completion, cached)) == ceil(exact)


@given(st.integers(-(10**400), 10**400), st.integers(), st.integers())
def test_no_count_is_too_large(prompt: int, completion: int, cached: int) -> None:
    tokens = usage(prompt, completion, cached)
    assert MINI.cost(tokens) >= 0


@pytest.mark.parametrize("amount", ["-0.01", "NaN", "sNaN", "Infinity", "-Infinity", "1000000.01"])
@pytest.mark.parametrize("key", ["input", "output", "cached_input"])
def test_a_price_is_a_number_of_sensible_size(key: str, amount: str) -> None:
    amounts = {"input": Decimal(1), "output": Decimal(1), key: Decimal(amount)}
    with pytest.raises(ValueError, match="from 0 to 1000000"):
        Price(**amounts)
