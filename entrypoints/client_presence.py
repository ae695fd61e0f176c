"""Whether the client is still there while there is nothing to send it."""

import select
import socket
from collections.abc import Callable
from typing import Any

from chatport.domain.model import always

SERVER_SOCKET = "gunicorn.socket"


def still_there(environ: dict[str, Any]) -> Callable[[], bool]:
    """Return a look at the client's connection; without its socket, everybody is there.

    A server notices that a client has left when it writes. Before a stream begins there is
    nothing to write; but a client that has closed its side can be seen.
    """
    connection = environ.get(SERVER_SOCKET)
    if connection is None:
        return always

    def look() -> bool:
        readable, _, _ = select.select([connection], [], [], 0)
        if not readable:
            return True
        try:
            return bool(connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    return look
