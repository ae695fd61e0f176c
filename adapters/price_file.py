"""The operator's own prices, in a TOML file: for each model, USD per million tokens.

["my-model"]
input = 0.15
output = 0.60
cached_input = 0.075  # without it, what is cached costs as much as the rest
"""

import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from .price import MAX_PRICE, Price, is_price

REQUIRED = ("input", "output")
KEYS = (*REQUIRED, "cached_input")


class PriceFileError(ValueError):
    """The file cannot be used. `problems` holds one sentence for each thing that is wrong."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.problems = [f"{path}: {problem}." for problem in problems]
        super().__init__("\n".join(self.problems))


def read_prices(path: Path) -> dict[str, Price]:
    """Return the price of each model in the file.

    Raises:
        PriceFileError: The file cannot be read, is no TOML, or says something else than prices.
    """
    tables = _tables(path)
    problems = [problem for model, table in tables.items() for problem in _problems(model, table)]
    if problems:
        raise PriceFileError(path, problems)
    return {
        model: Price(**{key: Decimal(amount) for key, amount in table.items()})
        for model, table in tables.items()
    }


def _tables(path: Path) -> dict[str, Any]:
    problem = "cannot be read: it is no regular file"  # a pipe might never end
    try:
        if path.is_file() or not path.exists():
            text = path.read_bytes().decode("utf-8-sig")  # Windows' Notepad writes a mark before it
            return tomllib.loads(text, parse_float=_decimal)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    except RecursionError:
        problem = "is not TOML: it nests too deep"
    except ValueError as error:
        problem = f"is not TOML: {error}"
    raise PriceFileError(path, [problem])


def _decimal(text: str) -> Decimal:
    """Return the number without the error that a float would have."""
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of more digits than a Decimal has
        return Decimal("NaN")


def _problems(model: str, table: Any) -> list[str]:
    """Return what is wrong with one model's prices."""
    if not isinstance(table, Mapping):
        return [f"{model!r} is no table with the keys {' and '.join(REQUIRED)}"]
    missing = [f"{key} of {model!r} is missing" for key in REQUIRED if key not in table]
    return missing + [
        f"{key if key in KEYS else repr(key)} of {model!r} {fault}"
        for key, amount in table.items()
        if (fault := _fault(key, amount))
    ]


def _fault(key: str, amount: Any) -> str | None:
    if key not in KEYS and isinstance(amount, Mapping):
        return "is a table: the name of a model that holds a dot must stand in quotes"
    if key not in KEYS:
        return f"is unknown, there are {', '.join(KEYS)}"
    if type(amount) not in (int, Decimal) or not is_price(Decimal(amount)):
        return f"must be a number from 0 to {MAX_PRICE}, in USD per million tokens"
    return None
