"""Lengths of time on the command line: 90d, 24h, 30m."""

import re
from datetime import timedelta

import click

AGE_TEXT = re.compile(r"(\d{1,9})\s*([smhdw])", re.ASCII | re.IGNORECASE)
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

LONGEST = timedelta(days=36_500)
"""A century: what is added to now, or taken from it, is still a date."""


def parse_age(text: str) -> timedelta:
    """Parse a number of seconds, minutes, hours, days or weeks; 0 needs no unit.

    Raises:
        ValueError: The text is no age, or one of more than a century.
    """
    if text.strip() == "0":
        return timedelta(0)
    found = AGE_TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be a length of time such as 90d, 24h or 30m, where m is minutes")
    seconds = int(found[1]) * SECONDS[found[2].lower()]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"must be at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


class AgeType(click.ParamType):  # type: ignore[type-arg]  # older ones of click take none
    """An option that takes a length of time."""

    name = "age"

    def convert(
        self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the length of time, or end the command with what is wrong."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_age(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


AGE = AgeType()
