"""Where settings come from: the environment, and a file `.env` in the current folder."""

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dotenv.parser import Binding

LINE_END = re.compile(r"\r\n|\n|\r")
"""As python-dotenv counts lines."""


def load_environment(
    environment: Mapping[str, str], dotenv: Path
) -> tuple[dict[str, str], list[str]]:
    """Return the variables of a `.env` file, if it exists, and of the environment, which wins.

    Returns:
        The variables, and one sentence for each thing that is wrong with the file. None of them
        quotes it: a line that is no setting may be a key.
    """
    try:
        found = _text(dotenv)
    except UnicodeDecodeError:
        return dict(environment), [f"{dotenv} is not a text file in UTF-8."]
    except OSError as error:
        return dict(environment), [f"{dotenv} cannot be read: {error.strerror}."]
    in_file, wrong = _variables(found)
    problems = [f"{dotenv}, line {line}, is not NAME=VALUE." for line in wrong]
    return {**in_file, **environment}, problems


def _text(dotenv: Path) -> str:
    if not dotenv.exists():
        return ""
    if not dotenv.is_file():
        raise OSError(0, "it is no regular file")  # a pipe might never end
    return dotenv.read_text(encoding="utf-8")


def _variables(text: str) -> tuple[dict[str, str], list[int]]:
    """Return what the lines say, and the numbers of those that say nothing."""
    from dotenv import dotenv_values  # noqa: PLC0415  # 15 ms that `--help` need not pay
    from dotenv.parser import parse_stream  # noqa: PLC0415  # the same

    bindings = list(parse_stream(StringIO(text)))
    wrong = [each for each in bindings if each.error or (each.key and each.value is None)]
    good = "".join(each.original.string for each in bindings if each not in wrong)
    # Of the others it would print a warning. What stands there is meant, also `${NAME}`.
    values = dotenv_values(stream=StringIO(good), interpolate=False)
    return {name: value or "" for name, value in values.items()}, [_line(each) for each in wrong]


def _line(binding: "Binding") -> int:
    """Return where a statement begins, behind the empty lines that the parser puts to it."""
    text = binding.original.string
    empty = text[: len(text) - len(text.lstrip())]
    return int(binding.original.line + len(LINE_END.findall(empty)))
