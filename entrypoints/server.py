"""The HTTP server under the Flask application.

gunicorn with gevent workers, one process a core: a call that waits for a slow model costs a
greenlet and not a thread, thousands of them fit into a process, and half-sent requests or slow
readers hold up nobody. Its price: what blocks must run on a real thread (`offload`). Windows
has no fork, so waitress serves there, in one process with threads.
"""

import gc
import ipaddress
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chatport.domain.errors import StorageUnavailable

from .cli_exits import LOOK_SECONDS
from .database_name import current_folder
from .offload import offload
from .overload import Overload, hooks
from .settings import Settings

if TYPE_CHECKING:
    from flask import Flask

    from chatport.domain.ports import ConversationStore

    from .wiring import Parts

logger = logging.getLogger(__name__)

CONNECTIONS_PER_WORKER = 4_000
"""2,000 calls in flight must fit into either of two workers; the rest waits in the backlog."""

KEEPALIVE_SECONDS = 10
"""For an idle connection to be used again."""

GRACEFUL_SECONDS = 30
GARBAGE_THRESHOLD = 5_000
"""Objects between two looks for cycles. With Python's 700, a long history costs several; with
20,000, each stopped all others for 20 to 45 ms."""

SWITCH_SECONDS = 0.0002
"""How soon the thread that commits gets the interpreter lock back from the greenlets. With
Python's 5 ms, requests/s were 12 % lower and CPU a request 13 % higher."""

HOUSEKEEPING_SECONDS = 10.0
"""Between two looks for what nobody will finish: killed processes', or what could not be kept."""

WAITRESS_THREADS = 64

TOO_LARGE = (
    "the database file is too large to be looked through at the start, which ends after %s s;"
    " `chatport doctor` looks for damage"
)


class CannotServe(Exception):
    """The server cannot be started as asked; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What `chatport serve` was asked to do."""

    host: str
    port: int
    workers: int
    offline: bool

    @property
    def loopback(self) -> bool:
        """Return whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def serve(settings: Settings, serving: Serving) -> None:
    """Serve until the process is told to stop.

    Raises:
        MissingKeyError: There is no key, and `offline` was not asked for.
        StorageUnavailable: The log cannot be used.
    """
    if sys.platform == "win32":
        _serve_with_waitress(settings, serving)
    else:
        _serve_with_gunicorn(settings, serving)


def check_start(settings: Settings, serving: Serving) -> None:
    """Return if nothing is known that stands against a start.

    Raises:
        CannotServe: The address is not loopback and there is no key yet, or it is taken; or no
            temporary file can be written, by which gunicorn watches its workers, or it has no
            folder to work in.
        StorageUnavailable: The database is damaged, or cannot be read.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise CannotServe(
            "No temporary file can be written. Name a folder in TMPDIR where there is room."
        ) from None
    if current_folder() is None:
        raise CannotServe("The current folder was deleted. Start the server in another.")
    check_database(settings)  # first, since what comes later may write
    check_address(settings, serving)


def check_address(settings: Settings, serving: Serving) -> None:
    """Return if the server may and can listen there.

    Raises:
        CannotServe: The address is not loopback and there is no key yet, or it is taken.
        StorageUnavailable: The keys cannot be read.
    """
    if not serving.loopback and not _has_callers(settings):
        raise CannotServe(
            f"{serving.host} can be reached from other machines, and there is no key yet that"
            " would keep strangers out. Make one with: chatport keys create NAME"
        )
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    with socket.socket(family) as probe:
        if sys.platform != "win32":  # where it would let a taken port pass
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((serving.host, serving.port))
        except OSError as error:
            raise CannotServe(
                f"Cannot listen on {serving.host}:{serving.port}: {error.strerror}."
                " Choose another with --host or --port."
            ) from None


def check_database(settings: Settings) -> None:
    """Return if there is no damage in the database file, as far as can be seen in a moment.

    Raises:
        StorageUnavailable: The file is damaged, or cannot be read.
    """
    from chatport.adapters import look_through  # noqa: PLC0415  # as below

    path = settings.database
    if path is not None and path.is_file() and not look_through(path, LOOK_SECONDS):
        logger.warning(TOO_LARGE, LOOK_SECONDS)


def _has_callers(settings: Settings) -> bool:
    from chatport.adapters import PeeweeKeys, SqliteSession  # noqa: PLC0415  # loopback needs none

    if settings.database is None or not settings.database.exists():
        return False
    with closing(SqliteSession(settings.database)) as session:
        return not PeeweeKeys(session).is_empty()


def application(
    settings: Settings,
    parts: "Parts",
    overload: Overload,
    stop: tuple[type[BaseException], ...] = (),
) -> "Flask":
    """Return the application around the parts."""
    from .flask_app import create_app  # noqa: PLC0415  # only what serves imports it

    return create_app(
        parts.service,
        parts.ready,
        authenticate=parts.doorkeeper.authenticate,
        admin=parts.admin,
        max_body_bytes=settings.max_body_bytes,
        proxy_hops=settings.proxy_hops,
        overload=overload,
        stop=stop,
    )


def _serve_with_waitress(settings: Settings, serving: Serving) -> None:
    import waitress  # noqa: PLC0415  # installed on Windows only

    from .wiring import Place, assembled  # noqa: PLC0415  # only what serves imports it

    place = Place(offline=serving.offline, loopback=serving.loopback)
    with assembled(settings, place) as parts:
        parts.store.recover(datetime.now(UTC))
        _keep_house(parts.store)
        waitress.serve(
            application(settings, parts, Overload(settings.max_in_flight)),
            host=serving.host,
            port=serving.port,
            threads=WAITRESS_THREADS,
            ident=None,
        )


def _serve_with_gunicorn(settings: Settings, serving: Serving) -> None:
    from gevent import GreenletExit, monkey  # noqa: PLC0415  # before whatever opens sockets

    monkey.patch_all()
    sys.setswitchinterval(SWITCH_SECONDS)
    from chatport.adapters import WindowTable  # noqa: PLC0415

    from .gevent_worker import Server  # noqa: PLC0415
    from .wiring import Place, assembled  # noqa: PLC0415

    _allow_connections()
    place = Place(
        offline=serving.offline,
        table=WindowTable(),
        offload=offload,
        loopback=serving.loopback,
    )
    with assembled(settings, place) as parts:
        parts.store.recover(datetime.now(UTC))
        parts.store.close()  # each worker opens the file for itself
        overload = Overload(settings.max_in_flight)
        host = f"[{serving.host}]" if ":" in serving.host else serving.host
        options = {
            "bind": f"{host}:{serving.port}",
            "workers": serving.workers if settings.database else 1,
            "worker_connections": CONNECTIONS_PER_WORKER,
            "keepalive": KEEPALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "preload_app": True,
            "control_socket_disable": True,
            # Nobody is believed what a proxy may say; CHATPORT_PROXY_HOPS is for addresses alone.
            "forwarder_headers": "",
            "secure_scheme_headers": {},
            "post_worker_init": lambda _worker: _keep_house(parts.store),
            **hooks(overload),
        }
        server = Server(application(settings, parts, overload, (GreenletExit,)), options)
        gc.freeze()  # what was imported is for ever: workers share it, and need not look it over
        gc.set_threshold(GARBAGE_THRESHOLD)
        server.run()


def _keep_house(store: "ConversationStore") -> None:
    """Close what killed processes have left open, now and again and again.

    Without a database a worker begins all the same, and says so to whoever asks: gunicorn would
    end the whole server for one that cannot begin.
    """

    def again() -> None:
        while True:
            time.sleep(HOUSEKEEPING_SECONDS)
            _recover(store)

    _recover(store)
    threading.Thread(target=again, daemon=True).start()


def _recover(store: "ConversationStore") -> None:
    try:
        store.recover(datetime.now(UTC))
    except StorageUnavailable as error:
        logger.error("what was left open stays so for now: %s", error.code)  # noqa: TRY400  # expected


def _allow_connections() -> None:
    """Raise the limit of open files: a call needs two, one to the client and one upstream."""
    import resource  # noqa: PLC0415  # not on Windows

    wanted = 2 * CONNECTIONS_PER_WORKER + 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
