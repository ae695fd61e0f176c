"""The log of a live service: each line is JSON, and whoever reads it no more holds up nobody."""

import http.client
import json
import logging
import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from chatport.entrypoints.access_log import HurriedHandler
from integration.programs import SERVERS

from .conftest import PATIENCE_SECONDS, eventually

READ_BYTES = 65_536
"""What a pipe holds: some 220 lines. A terminal holds less."""

REQUESTS = 400
LEFT_OUT = re.compile(rb"lines were left out: (\d+)")


@pytest.fixture(params=[os.pipe, os.openpty], ids=["a pipe", "a terminal"])
def sink(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Return where to read, and where to write."""
    reader, writer = request.param()
    yield reader, writer
    os.close(reader)


def test_a_log_that_nobody_reads_any_more_holds_up_neither_answers_nor_the_stop(
    sink: tuple[int, int], tmp_path: Path
) -> None:
    reader, writer = sink
    server = SERVERS.start(
        ["serve", "--offline", "--port", "0"], dict(os.environ), tmp_path, writer
    )
    os.close(writer)
    said = b""
    while not (found := re.search(rb"Listening at: http://[^ ]+:(\d+)", said)):
        said += os.read(reader, READ_BYTES)
    with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)) as client:

        def ask() -> None:
            client.request("GET", "/v1/models/none")
            assert client.getresponse().read()

        for _ in range(REQUESTS):
            ask()
        until = time.monotonic() + PATIENCE_SECONDS
        while not (gap := LEFT_OUT.search(said)) and time.monotonic() < until:
            while select.select([reader], [], [], 0.05)[0]:  # the reader goes on
                said += os.read(reader, READ_BYTES)
            ask()
    assert gap
    assert int(gap[1]) >= REQUESTS / 4
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_SECONDS) == 0


def test_a_worker_that_can_open_no_more_says_so_in_json(serve: Callable[..., Any]) -> None:
    service = serve("--workers", "1")
    (worker,) = service.workers()
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    used = max(int(each.name) for each in Path(f"/proc/{worker}/fd").iterdir()) + 1
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (used, before[1]))
    with ExitStack() as clients:
        for _ in range(used):
            clients.enter_context(closing(service.connect())).connect()
        eventually(lambda: b"Too many open files" in service.log.read_bytes())
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
        assert service.ask({"user_id": "ada", "prompt": "Hello"})[0] == 200
    _for_people, *lines = service.log.read_text().splitlines()
    errors = {each["message"] for each in map(json.loads, lines) if each["level"] == "error"}
    assert errors == {"failed outside of all requests: Too many open files"}


def test_lines_that_a_process_left_out_are_counted_by_it_alone() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as reading, os.fdopen(writer, "w") as writing:
        handler = HurriedHandler(writing)
        handler.handleError(logging.makeLogRecord({}))
        if (child := os.fork()) == 0:
            handler.emit(logging.makeLogRecord({"msg": "forked"}))
            os._exit(0)
        os.waitpid(child, 0)
        handler.emit(logging.makeLogRecord({"msg": "here"}))
        writing.close()
        assert reading.read() == b"forked\nlines were left out: 1\nhere\n"
