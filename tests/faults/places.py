"""Places where no provider answers."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from integration.upstream import Upstream

from .modes import Place

NOBODY = "provider.invalid"


@contextmanager
def address(place: Place, upstream: Upstream) -> Iterator[str]:
    """Return the address under which the provider is looked for."""
    with ExitStack() as closing:
        if place is Place.HERE:
            yield upstream.url
        elif place in {Place.NO_NAME, Place.SLOW_NO_NAME}:
            monkeypatch = closing.enter_context(pytest.MonkeyPatch.context())
            _forget_names(monkeypatch, 0.2 if place is Place.SLOW_NO_NAME else 0.0)
            yield f"http://{NOBODY}/v1"
        elif place is Place.NO_TLS:
            yield f"https://{closing.enter_context(_plain_speaking())}/v1"
        else:
            taken = closing.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            if place is Place.FULL_PORT:
                _fill(taken, closing)
            yield "http://{}:{}/v1".format(*taken.getsockname())


def _forget_names(monkeypatch: pytest.MonkeyPatch, after_seconds: float) -> None:
    resolve = socket.getaddrinfo

    def resolver(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != NOBODY:
            return resolve(host, *arguments, **options)
        time.sleep(after_seconds)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolver)


def _fill(listener: socket.socket, closing: ExitStack) -> None:
    """Let others wait in line, until the machine lets nobody in any more."""
    listener.listen(0)
    for _ in range(3):
        waiting = closing.enter_context(socket.socket())
        waiting.setblocking(False)
        with suppress(BlockingIOError):
            waiting.connect(listener.getsockname())


@contextmanager
def _plain_speaking() -> Iterator[str]:
    """Run a listener that answers a TLS handshake in plain text."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_speak, args=(listener,))
        thread.start()
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _speak(listener: socket.socket) -> None:
    with suppress(OSError):  # the test is over
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
