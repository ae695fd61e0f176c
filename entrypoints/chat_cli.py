"""`chatport chat`: talk to the model in the terminal."""

import sys

import click

from chatport.domain.chat import ChatService
from chatport.domain.errors import ChatportError, StorageUnavailable
from chatport.domain.model import ChatRequest

from .cli_exits import (
    EXIT_FAILED,
    EXIT_SETTINGS,
    check_prices,
    faults_end_the_program,
    load_settings,
    stop,
)
from .terminal import printable_text


@click.command()
@click.option("--user", default="terminal", show_default=True, help="Whose conversation.")
@click.option("--offline", is_flag=True, help="Answer without a provider, by repeating.")
def chat(user: str, *, offline: bool) -> None:
    """Talk to the model; each line is a prompt. Ctrl-D ends, Ctrl-C stops an answer.

    The conversation is the same that HTTP clients continue with this user id. Prompts can be
    piped in: echo Hello | chatport chat
    """
    from .wiring import MissingKeyError, Place, assembled  # noqa: PLC0415  # `--help` needs none of it

    settings = load_settings()
    check_prices(settings)
    if not offline and settings.lacks_key:
        stop(EXIT_SETTINGS, str(MissingKeyError()))
    with (
        faults_end_the_program(settings.database),
        assembled(settings, Place(offline=offline)) as parts,
    ):
        answered = True
        while (prompt := _next_prompt()) is not None:
            if prompt:
                answered &= _answer(parts.service, user, prompt)
    if not (answered or sys.stdin.isatty()):
        sys.exit(EXIT_FAILED)


def _next_prompt() -> str | None:
    """Return the next line without its end, or None at the end of the input."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _answer(service: ChatService, user: str, prompt: str) -> bool:
    """Print an answer as it comes; what goes wrong is said, and the talk goes on."""
    try:
        stream = service.stream(ChatRequest(prompt=prompt, user_id=user, route="chatport chat"))
        try:
            for text in stream:
                click.echo(printable_text(text), nl=False)
        finally:
            stream.close()
        click.echo()
    except KeyboardInterrupt:
        click.echo("\n(stopped)", err=True)
        return True
    except StorageUnavailable:
        raise
    except ChatportError as error:
        click.echo(f"chatport: {error}", err=True)
        return False
    return True
