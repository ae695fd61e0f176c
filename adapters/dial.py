"""Connecting to a host within a time for all that it takes."""

import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from .tls_socket import TLSSocket

Address = tuple[int, int, int, str, Any]
"""As `socket.getaddrinfo` returns them."""

MOMENT = 0.001
"""The shortest wait, in seconds: a timeout of 0 would mean not to wait but to look."""

_lookups: dict[tuple[int, str, int], "Future[Sequence[Address]]"] = {}
"""Those under way in this process. A resolver may take half a minute, which nothing can cut short:
one thread for all who ask for the same host, instead of one for each."""


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
    addresses = _addresses(host, port, _until(end))
    for left in range(len(addresses), 0, -1):
        try:
            return _connection(addresses[-left], _until(end) / left)
        except OSError:  # also where this machine knows no IPv6
            if left == 1:
                raise
    raise OSError("the host has no address")


def _connection(address: Address, seconds: float) -> socket.socket:
    family, kind, protocol, _, place = address
    connection = socket.socket(family, kind, protocol)
    connection.settimeout(seconds)
    try:
        connection.connect(place)
    except BaseException:
        connection.close()
        raise
    return connection


def _addresses(host: str, port: int, seconds: float) -> Sequence[Address]:
    """Return the addresses of a host; a lookup that takes longer goes on for whoever asks next."""
    if literal := _literal(host, port):
        return [literal]
    place = os.getpid(), host, port  # a fork takes the lookups along, but not their threads
    mine: Future[Sequence[Address]] = Future()
    lookup = _lookups.setdefault(place, mine)
    if lookup is mine:
        try:
            threading.Thread(target=_look_up, args=(place, mine), daemon=True).start()
        except RuntimeError as error:
            del _lookups[place]
            mine.set_exception(OSError(str(error)))
    return lookup.result(seconds)


def _literal(host: str, port: int) -> Address | None:
    """Return the address if the host is given as one: there is nothing to look up."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    family = socket.AF_INET6 if version == 6 else socket.AF_INET  # noqa: PLR2004  # IPv6
    return family, socket.SOCK_STREAM, 0, "", (host, port)


def _look_up(place: tuple[int, str, int], lookup: "Future[Sequence[Address]]") -> None:
    _, host, port = place
    try:
        found: Sequence[Address] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:  # noqa: BLE001  # raised where it is waited for
        del _lookups[place]
        lookup.set_exception(_refused(error))
    else:
        del _lookups[place]
        lookup.set_result(found)


def _refused(error: Exception) -> OSError:
    """Return why a host has no address: also by the rules of IDNA, or where no thread is left."""
    if isinstance(error, UnicodeError):
        return socket.gaierror(str(error))
    return error if isinstance(error, OSError) else OSError(str(error))


def _until(end: float) -> float:
    return max(end - time.monotonic(), MOMENT)
