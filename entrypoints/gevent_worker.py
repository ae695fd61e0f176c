"""gunicorn and its gevent worker, taught our log and our errors."""

import logging
import math
import mmap
import os
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

from gevent import GreenletExit, get_hub, monkey, sleep
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from .cli_exits import EXIT_FAILED
from .client_deadlines import Client, WholeBody
from .completion_api import PATH
from .faults import log_unhandled
from .plain_requests import check_coding, connection_options, refusal

logger = logging.getLogger(__name__)

LINE = f"POST {PATH} ".encode()
KILL_SECONDS = 8
"""Of the graceful time, for telling those who are left, and for writing their outcomes."""

LAST_SECONDS = 2
"""Of KILL_SECONDS, for closing the database, before the master kills the process."""

ACCEPTED_AT_ONCE = 16
"""Connections that a worker takes in one turn. With gunicorn's 1, clients that connect for each
request wait a turn of all others for each one before them: at four times the load, half of the
refusals took more than 100 ms, and with this 5 ms. With more, one may take all of a burst."""

LOOK_SECONDS = 1.0
"""Between two signs of life for the master; how soon a stop is heeded."""

RETRY_SECONDS = 1.0
"""Between two tries to start a worker that cannot begin."""

FROZEN_SECONDS = 5.0
"""Without a look at the workers, which is due each second."""


class PlainLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Hands gunicorn's messages to the process's own log, and writes no access log."""

    def setup(self, cfg: Any) -> None:
        """Add no handler."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.error_log.setLevel(logging.INFO)


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Answers what is no HTTP in JSON, and waits neither for ever nor for what the master kills."""

    _kill_at = math.inf
    """When those who are still waiting are told that they wait in vain."""

    def init_signals(self) -> None:
        """Heed signals from now on, also one that came while the process began.

        What a closed terminal sends to all is for the master, which starts anew and stops us.
        """
        super().init_signals()
        for each in (signal.SIGHUP, signal.SIGUSR2):  # gunicorn lets them end the process
            signal.signal(each, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def handle_exit(self, _sig: int, _frame: Any) -> None:
        """Stop, and give up on the last requests before the master does: SIGTERM."""
        self._stop(self.cfg.graceful_timeout - KILL_SECONDS)

    def handle_quit(self, _sig: int, _frame: Any) -> None:
        """Stop as `handle_exit` does, but wait for nobody: Ctrl-C, SIGINT or SIGQUIT."""
        self._stop(0)

    def _stop(self, grace_seconds: float) -> None:
        self.alive = False
        self._kill_at = min(self._kill_at, time.monotonic() + grace_seconds)

    def run(self) -> None:
        """Serve until told to stop; then wait for every request, and for every outcome.

        gunicorn's own `run` gives those that it kills a second, and goes by a clock that may be
        set.
        """
        get_hub().print_exception = log_unhandled
        pool = Pool(self.worker_connections)
        servers = [self._serve(listener, pool) for listener in self.sockets]
        while self.alive:
            self.notify()
            sleep(LOOK_SECONDS)
        for server in servers:
            server.close()
        self._wait(pool, 0)
        if pool:
            logger.warning("%s connections are cut off by the stop", len(pool))
            pool.kill(block=False)
            self._kill_at = time.monotonic()  # where a stop was heeded late, it is later
            self._wait(pool, KILL_SECONDS - LAST_SECONDS)

    def _serve(self, listener: Any, pool: Pool) -> StreamServer:
        listener.setblocking(1)
        server = StreamServer(listener, handle=partial(self.handle, listener), spawn=pool)
        if self.cfg.workers > 1:
            server.max_accept = ACCEPTED_AT_ONCE
        server.start()
        return server

    def _wait(self, pool: Pool, seconds: float) -> None:
        """Wait until nothing is under way, but at most until so long after `_kill_at`."""
        while pool and (left := self._kill_at + seconds - time.monotonic()) > 0:
            self.notify()
            pool.join(timeout=min(left, LOOK_SECONDS))

    def notify(self) -> None:
        """Show the master that we live; one that is gone is as good as one that says quit."""
        AsyncWorker.notify(self)
        if os.getppid() != self.ppid and self._kill_at > time.monotonic():
            logger.warning("the master is gone, so this worker stops")
            self._stop(0)

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """Leave it to the client's own deadlines to end a wait."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection whose other side must read and send in time."""
        client = Client(client, self.cfg.keepalive, stopping=self.app.is_stopping)
        AsyncWorker.handle(self, listener, client, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer a request, and close if what follows its answer cannot be the next one."""
        sock.begin()
        check_coding(req)
        if "close" in connection_options(req):
            req.force_close()
        asked_to_close = req.should_close
        req.should_close = lambda: asked_to_close() or not self.alive  # also if it stops meanwhile
        req.body = WholeBody(req)
        try:
            super().handle_request(listener_name, req, sock, addr)
        except BaseException:
            if not req.body.is_read():
                sock.linger()
            raise
        finally:
            del req.should_close  # it holds its request, which only a look for cycles would free
        if not sock.answering:  # it was killed before it had an answer
            self.handle_error(req, sock, addr, GreenletExit())
            req.force_close()
        if not req.body.drain():
            sock.linger()
            req.force_close()
        sock.await_next(begun=bool(req.unreader.buf.getvalue().strip(b"\r\n")))
        if not self.alive:  # which it may have become in the turns of others
            req.force_close()

    def handle_error(self, req: Any, client: Any, _addr: Any, exc: BaseException) -> None:
        """Answer a request that did not reach the application, or broke on its way out.

        Where there is none, or one that was answered, nothing is said: it would be taken for the
        answer to the next one.
        """
        if client.is_idle() or client.answering:
            return
        client.linger()
        path = getattr(req or getattr(exc, "req", None), "path", None)
        is_seed = client.line.startswith(LINE) if path is None else path == PATH
        try:
            util.write_nonblock(client, refusal(exc, seed=is_seed))
        except OSError:
            logger.info("the client left before it could be told of an error")


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """Starts workers so that none misses a signal, and ends none without need."""

    _looked_at = math.inf
    _spares_until = -math.inf

    def stop(self, graceful: bool = True) -> None:  # as gunicorn calls it
        """Stop all workers; first they say that they do."""
        self.app.stops[0] = 1
        super().stop(graceful)

    def spawn_worker(self) -> Any:
        """Fork with signals held back: until a worker has handlers, its master's would eat them.

        It would go on, and take requests, until it is killed with them at the end of the grace.
        Where there is no room for a process, the others go on, and it is tried again in a second;
        so it is where the process is there, and cannot begin, unless it is one of the first.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            return super().spawn_worker()
        except SystemExit as end:  # in the new process
            if not end.code or self.worker_age <= self.cfg.workers:
                raise
            logger.error("a worker is missing, and cannot begin now")  # noqa: TRY400  # gunicorn says why
            monkey.get_original("time", "sleep")(RETRY_SECONDS)  # gevent may be what cannot begin
            sys.exit(EXIT_FAILED)
        except OSError as error:
            if os.getpid() != self.pid:
                raise  # it is the new process that cannot go on
            self.cfg.child_exit(self, SimpleNamespace(age=self.worker_age))  # its slot is free
            logger.error("a worker is missing, and cannot be started now: %s", error.strerror)  # noqa: TRY400  # expected
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def murder_workers(self) -> None:
        """Kill workers that hang; but give all a moment after a time in which they were paused."""
        now = time.monotonic()
        if now - self._looked_at > FROZEN_SECONDS:
            self._spares_until = now + FROZEN_SECONDS
        self._looked_at = now
        if now >= self._spares_until:
            super().murder_workers()


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn around an application that is already there."""

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        self._app = app
        self.stops = mmap.mmap(-1, 1)  # its workers read what its master writes
        self._options = {**options, "worker_class": Worker, "logger_class": PlainLogger}
        super().__init__()

    def load_config(self) -> None:
        """Take the options; no file and no environment variable is read."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def is_stopping(self) -> bool:
        """Return whether the whole server ends, and not only one of its workers."""
        return bool(self.stops[0])

    def load(self) -> Any:
        """Return the application."""
        return self._app

    def run(self) -> None:
        """Serve until told to stop; this ends the process."""
        Master(self).run()
