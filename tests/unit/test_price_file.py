"""The operator's file of prices: what it says, and every way in which it can be wrong."""

import os
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatport.adapters import Price, PriceFileError, read_prices
from chatport.domain.model import Usage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prices.toml"


def problems(path: Path, text: str) -> list[str]:
    """Return what is said to be wrong with the text, without the name of the file."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PriceFileError) as caught:
        read_prices(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_prices_are_read_without_the_error_of_a_float(path: Path) -> None:
    path.write_text(
        '["my-model"]\ninput = 0.1\noutput = 0.60\ncached_input = 0.075\n\n'
        '["at-home:20b"]\ninput = 0\noutput = 0\n'
    )
    assert read_prices(path) == {
        "my-model": Price(
            input=Decimal("0.1"), output=Decimal("0.6"), cached_input=Decimal("0.075")
        ),
        "at-home:20b": Price(input=Decimal(0), output=Decimal(0)),
    }
    tenth = read_prices(path)["my-model"]
    assert tenth.cost(Usage(prompt_tokens=3, completion_tokens=0)) == 300


def test_a_file_that_says_nothing_has_no_prices(path: Path) -> None:
    path.write_text("# none yet\n")
    assert read_prices(path) == {}


def test_a_byte_order_mark_does_no_harm(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf[m]\r\ninput = 1\r\noutput = 1e1\r\n")
    assert read_prices(path) == {"m": Price(input=Decimal(1), output=Decimal(10))}


@pytest.mark.parametrize(
    "amount",
    [
        *("-1", "-0.000001", "nan", "-nan", "inf", "-inf", "1000000.1", "1000001"),
        *("1e999999999999999999999", "true", '"0.15"', "[1]", "{x = 1}", "2026-01-01"),
    ],
)
def test_a_price_is_a_number_of_sensible_size(path: Path, amount: str) -> None:
    text = f'["my-model"]\ninput = {amount}\noutput = 1\n'
    assert problems(path, text) == [
        "input of 'my-model' must be a number from 0 to 1000000, in USD per million tokens."
    ]


@pytest.mark.parametrize("missing", ["input", "output"])
def test_input_and_output_must_be_there(path: Path, missing: str) -> None:
    text = "[m]\n" + "".join(f"{key} = 1\n" for key in ("input", "output") if key != missing)
    assert problems(path, text) == [f"{missing} of 'm' is missing."]


def test_other_keys_are_refused(path: Path) -> None:
    assert problems(path, "[m]\ninput = 1\noutput = 1\nouput = 1\n") == [
        "'ouput' of 'm' is unknown, there are input, output, cached_input."
    ]


def test_a_model_is_a_table(path: Path) -> None:
    assert problems(path, '"my-model" = 0.15\n') == [
        "'my-model' is no table with the keys input and output."
    ]
    assert problems(path, "[[m]]\ninput = 1\noutput = 1\n") == [
        "'m' is no table with the keys input and output."
    ]


def test_whoever_forgets_the_quotes_around_a_dot_is_told(path: Path) -> None:
    assert problems(path, "[gpt-4.1]\ninput = 1\noutput = 1\n") == [
        "input of 'gpt-4' is missing.",
        "output of 'gpt-4' is missing.",
        "'1' of 'gpt-4' is a table: the name of a model that holds a dot must stand in quotes.",
    ]


def test_all_problems_are_told_at_once(path: Path) -> None:
    assert problems(path, "[a]\ninput = -1\n[b]\noutput = 1\ntyop = 1\n") == [
        "output of 'a' is missing.",
        "input of 'a' must be a number from 0 to 1000000, in USD per million tokens.",
        "input of 'b' is missing.",
        "'tyop' of 'b' is unknown, there are input, output, cached_input.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[m]\ninput = 1\ninput = 2\n",
        "[m]\ninput = .5\n",
        "x = " + "[" * 100_000,
        "x = " + "9" * 100_000,
    ],
)
def test_what_is_no_toml_is_refused(path: Path, text: str) -> None:
    [problem] = problems(path, text)
    assert problem.startswith("is not TOML: ")


def test_what_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b'["caf\xe9"]\ninput = 1\noutput = 1\n')
    with pytest.raises(PriceFileError, match=r"prices\.toml: is not UTF-8\.$"):
        read_prices(path)


def test_a_missing_file_is_told(path: Path) -> None:
    with pytest.raises(PriceFileError, match=r"prices\.toml: cannot be read: No such file"):
        read_prices(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match="cannot be read: "):
        read_prices(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60).map(lambda end: b"[m]\ninput = 1\noutput = 1" + end))
def test_no_file_is_read_as_anything_but_prices_or_a_problem(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with suppress(PriceFileError):
        assert all(isinstance(price, Price) for price in read_prices(path).values())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipe has a name here")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PriceFileError) as caught:
        read_prices(path)
    assert caught.value.problems == [f"{path}: cannot be read: it is no regular file."]


def test_a_name_that_no_file_can_have_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match="cannot be read: File name too long"):
        read_prices(tmp_path / ("x" * 300))
