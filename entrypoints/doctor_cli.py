"""`chatport doctor`: what is wrong with this installation, and what to do about it."""

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from .cli_exits import EXIT_FAILED, own_environment
from .server import Serving
from .terminal import printable_text

if TYPE_CHECKING:
    from .doctor_findings import Check, Finding

COLOURS = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "bright_black"}
WIDTH = max(map(len, COLOURS))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="As for serve.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--offline", is_flag=True, help="As for serve: without a provider.")
@click.option("--no-network", is_flag=True, help="Do not ask the provider, nor for its name.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(
    *, host: str, port: int, offline: bool, no_network: bool, strict: bool, as_json: bool
) -> None:
    """Check this installation, and say what to do about what is wrong.

    Nothing is changed, and no secret is printed. Give the options that serve is started with.
    """
    from .doctor import examine  # noqa: PLC0415  # `--help` needs none
    from .doctor_surroundings import surroundings  # noqa: PLC0415  # the same

    serving = Serving(host=host, port=port, workers=1, offline=offline)
    levels: Counter[str] = Counter()
    for check, finding in examine(surroundings(own_environment(), serving, network=not no_network)):
        levels[finding.level] += 1
        if as_json:
            click.echo(json.dumps(encode(check, finding)))
        else:
            _show(check, finding)
    if not as_json:
        click.echo(_summary(levels))
    if levels["error"] or (strict and levels["warning"]):
        sys.exit(EXIT_FAILED)


def encode(check: "Check", finding: "Finding") -> dict[str, str]:
    """Return a finding for machines."""
    return {
        "id": check.id,
        "title": check.title,
        "level": finding.level.value,
        "found": finding.found,
        "advice": finding.advice,
    }


def _show(check: "Check", finding: "Finding") -> None:
    level = finding.level.value
    sign = click.style(level.ljust(WIDTH), fg=COLOURS[level], bold=level == "error")
    click.echo(f"{sign}  {check.id}: {printable_text(finding.found)}")
    if finding.advice:
        click.echo(f"{'':{WIDTH}}    {printable_text(finding.advice)}")


def _summary(levels: "Counter[str]") -> str:
    counted = ", ".join(f"{levels[level]} {level}" for level in COLOURS)
    return f"{levels.total()} checks: {counted}"
