"""Connecting to a host within a time for all that it takes."""

import socket
import ssl
import time

from .tls_socket import TLSSocket

MOMENT = 0.001
"""The shortest wait, in seconds: a timeout of 0 would mean not to wait but to look."""


def dialed(
    host: str, port: int, seconds: float, tls: ssl.SSLContext | None
) -> socket.socket | TLSSocket:
    """Return a socket to the first of a host's addresses that answers, with TLS if it is asked for.

    Each address has a fair part of the time that is left, so that one which is silent does not
    take the others' turn.

    Raises:
        TimeoutError: It was not done in time.
        OSError: There is no such host, or it refuses, or has no good certificate.
    """
    end = time.monotonic() + seconds
    connection = _connected(host, port, end)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection if tls is None else TLSSocket(connection, tls, host, _until(end))
    except BaseException:
        connection.close()
        raise


def _connected(host: str, port: int, end: float) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for left in range(len(addresses), 0, -1):
        family, kind, protocol, _, address = addresses[-left]
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(_until(end) / left)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            if left == 1:
                raise
        else:
            return connection
    raise OSError("the host has no address")


def _until(end: float) -> float:
    return max(end - time.monotonic(), MOMENT)
