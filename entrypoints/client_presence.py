"""What the connection of a request tells: whether its client is there, and its server stays."""

import socket
from collections.abc import Callable
from typing import Any

from chatport.domain.model import always

SERVER_SOCKET = "gunicorn.socket"


def is_stopping(environ: dict[str, Any]) -> bool:
    """Return whether the server of a request is about to stop; one that does not say so is not."""
    connection = environ.get(SERVER_SOCKET)
    return connection is not None and getattr(connection, "stopping", lambda: False)()


def still_there(environ: dict[str, Any]) -> Callable[[], bool]:
    """Return a look at the client's connection; without its socket, everybody is there.

    A server notices that a client has left when it writes. Before a stream begins there is
    nothing to write; but a client that has closed its side can be seen.
    """
    connection = environ.get(SERVER_SOCKET)
    if connection is None:
        return always

    def look() -> bool:
        patience = connection.gettimeout()
        connection.settimeout(0.0)  # neither waits nor minds how many sockets are open, as select
        try:
            return bool(connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            connection.settimeout(patience)

    return look
