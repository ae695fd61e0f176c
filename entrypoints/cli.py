"""The command line: `chatport serve`, `chatport chat`, `chatport log`."""

import logging
from contextlib import suppress

import click

from .chat_cli import chat
from .cli_exits import (
    EXIT_SETTINGS,
    Program,
    check_prices,
    faults_end_the_program,
    load_settings,
    stop,
)
from .doctor_cli import doctor
from .keys_cli import keys
from .log_cli import log
from .purge_cli import erase, purge
from .settings import Settings
from .usage_cli import usage

EPILOG = """\b
Exit codes:
  0  done
  1  what was asked for failed, or was not found
  2  the command line or a setting is wrong
  3  the database cannot be used
  5  the database was written by a newer version

Settings are read from the environment and a file .env in the current folder;
`chatport serve --check` prints them."""

MOST_WORKERS = 128
"""More is a slip of the hand, as is a port in this place; each takes 66 MB."""

NOWHERE = logging.NullHandler()
"""Where a command's log goes: its message says enough. `serve` has a log of its own."""


@click.group(cls=Program, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chatport")
def main() -> None:
    """One door of your own for a language model.

    Serves POST /openai-completion, keeps each user's conversation, and writes every request and
    every answer into a database.
    """
    logging.getLogger("chatport").addHandler(NOWHERE)  # without one, it prints warnings


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--workers", type=click.IntRange(1, MOST_WORKERS), help="Processes.  [default: one a core]"
)
@click.option("--offline", is_flag=True, help="Answer without a provider, by repeating.")
@click.option("--check", is_flag=True, help="Print the settings, secrets as ***, and exit.")
def serve(host: str, port: int, workers: int | None, *, offline: bool, check: bool) -> None:
    """Serve HTTP until told to stop.

    \b
    Try it without a provider:
      chatport serve --offline
      curl http://127.0.0.1:8000/openai-completion \\
        -H 'Content-Type: application/json' \\
        -d '{"user_id": "ada", "prompt": "Hello"}'
    """  # noqa: D301  # click reads \b, a control character, as: keep these lines as they are
    from .access_log import configure_logging  # noqa: PLC0415
    from .server import CannotServe, Serving, check_start, default_workers, serve  # noqa: PLC0415
    from .wiring import MissingKeyError  # noqa: PLC0415

    settings = load_settings(show=check)
    check_prices(settings)
    if not offline and settings.lacks_key:
        stop(EXIT_SETTINGS, str(MissingKeyError()))
    if check:
        return
    serving = Serving(
        host=host,
        port=port,
        workers=workers or default_workers(),
        offline=offline,
    )
    configure_logging()
    try:
        with faults_end_the_program():
            check_start(settings, serving)
    except CannotServe as error:
        stop(EXIT_SETTINGS, str(error))
    with suppress(OSError):  # a server whose log cannot be written serves all the same
        _announce(host, port, settings, offline=offline)
    with faults_end_the_program():
        serve(settings, serving)


def _announce(host: str, port: int, settings: Settings, *, offline: bool) -> None:
    if offline:
        line = "OFFLINE: there is no model behind this server; answers only repeat the prompt."
        click.secho(line, err=True, bold=True, fg="yellow")
    host = f"[{host}]" if ":" in host else host
    places = ", ".join(each.url for each in settings.upstreams)
    upstream = "offline" if offline else f"{settings.model} at {places}"
    click.echo(
        f"chatport: http://{host}:{port} -> {upstream}, log in {settings.database or 'memory'}",
        err=True,
    )


main.add_command(chat)
main.add_command(doctor)
main.add_command(keys)
main.add_command(log)
main.add_command(purge)
main.add_command(erase)
main.add_command(usage)
