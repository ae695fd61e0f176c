"""The log of a live service: each line is JSON, and whoever reads it no more holds up nobody."""

import http.client
import json
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from integration.programs import SERVERS

from .conftest import PATIENCE_SECONDS, eventually

READ_BYTES = 65_536
"""What a pipe holds: some 220 lines."""

REQUESTS = 400


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def test_a_log_that_nobody_reads_any_more_holds_up_neither_answers_nor_the_stop(
    pipe: tuple[int, int], tmp_path: Path
) -> None:
    reader, writer = pipe
    server = SERVERS.start(
        ["serve", "--offline", "--port", "0"], dict(os.environ), tmp_path, writer
    )
    os.close(writer)
    said = b""
    while not (found := re.search(rb"Listening at: http://[^ ]+:(\d+)", said)):
        said += os.read(reader, READ_BYTES)
    with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)) as client:
        for _ in range(REQUESTS):
            client.request("GET", "/v1/models/none")
            assert client.getresponse().read()
        said = os.read(reader, READ_BYTES)  # the reader goes on
        client.request("GET", "/v1/models/none")
        assert client.getresponse().read()
        said += os.read(reader, READ_BYTES)
    lines = [json.loads(line) for line in said.splitlines()]
    (gap,) = [line for line in lines if line["message"].startswith("lines were left out")]
    assert int(gap["message"].split(": ")[1]) >= REQUESTS / 4
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
    failures = {
        (line["exception"], line["message"])
        for line in map(json.loads, lines)
        if "exception" in line
    }
    assert failures == {("OSError", "failed outside of all requests: Too many open files")}
