"""A live `chatport serve` in front of a provider of our own, over real sockets."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from integration.programs import PROGRAM, SERVERS, Program

START_SECONDS = 30
PATIENCE_SECONDS = 30.0
COUNTING = threading.Lock()
"""For a Counter, which loses what threads count at the same moment."""


class Provider(ThreadingHTTPServer):
    """Speaks OpenAI's chat completions; answers `echo: PROMPT` when `gate` is open.

    Attributes:
        prompts: Every prompt that came.
        together: For each first word of a prompt, the most calls that were open at once.
        gate: Calls wait for it before their answer, or before the second half of a stream.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Completions)
        self.prompts: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.together: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def enter(self, body: dict[str, Any]) -> str:
        prompt = str(body["messages"][-1]["content"])
        with self._lock:
            self.prompts.append(prompt)
            self.requests.append(body)
            self._open[prompt.split(maxsplit=1)[0]] += 1
            word = prompt.split(maxsplit=1)[0]
            self.together[word] = max(self.together[word], self._open[word])
        return prompt

    def leave(self, prompt: str) -> None:
        with self._lock:
            self._open[prompt.split(maxsplit=1)[0]] -= 1


class _Completions(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = self.server.enter(body)
        try:
            if body.get("stream"):
                self._stream(f"echo: {prompt}")
            else:
                self.server.gate.wait()
                self._answer(f"echo: {prompt}")
        except OSError:
            pass  # chatport left, or was killed
        finally:
            self.server.leave(prompt)

    def _answer(self, text: str) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        answer = {"choices": [{**choice, "finish_reason": "stop"}], "usage": usage}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        half = len(text) // 2
        self._event({"choices": [{"index": 0, "delta": {"content": text[:half]}}]})
        self.server.gate.wait()
        self._event({"choices": [{"index": 0, "delta": {"content": text[half:]}}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Be quiet."""


class Service:
    """A running `chatport serve`.

    Args:
        folder: Where it runs.
        environment: Its settings.
        arguments: Those of `chatport serve`.
        program: What runs it.
        anew: Whether it runs in a process that has imported nothing, as it does for users.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *arguments: str,
        program: str = PROGRAM,
        anew: bool = False,
    ) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        before = self.log.stat().st_size if self.log.exists() else 0
        start = _start_anew if anew else SERVERS.start
        with self.log.open("ab") as log:
            self.process: subprocess.Popen[bytes] | Program = start(
                ["serve", "--port", "0", *arguments],
                {**_clean_environment(), **environment},
                folder,
                log.fileno(),
                program,
            )
        self.port = self._wait_for_port(before)

    def _wait_for_port(self, before: int) -> int:
        for _ in range(START_SECONDS * 100):
            found = re.search(rb"Listening at: http://[^ ]+:(\d+)", self.log.read_bytes()[before:])
            if found and self._answers(int(found[1])):
                return int(found[1])
            if self.process.poll() is not None:
                break
            try:
                self.process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError(self.log.read_text())

    @staticmethod
    def _answers(port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Return status, body and headers of a whole answer."""
        connection = self.connect()
        try:
            connection.request(
                "POST",
                "/openai-completion",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return response.status, json.loads(response.read()), dict(response.getheaders())
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill all its processes with -9, and wait until they are dead.

        A worker that is writing to the disk dies only when that is done, after its master.
        """
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        patience = time.monotonic() + START_SECONDS
        while self._is_alive() and time.monotonic() < patience:
            time.sleep(0.005)

    def kill_workers(self) -> None:
        """Kill the worker processes with -9; the master will start others."""
        for worker in self.workers():
            os.kill(worker, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Return the worker processes."""
        master = self.process.pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text()
        return [int(worker) for worker in children.split()]

    def _is_alive(self) -> bool:
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = entry.read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it has just ended
                continue
            if int(group) == self.process.pid and state not in "ZX":
                return True
        return False

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def _start_anew(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: int, program: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environment,
        stderr=log,
        stdout=log,
        start_new_session=True,
    )


def _clean_environment() -> dict[str, str]:
    mine = ("CHATPORT_", "OPENAI_", "COV_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)}


def eventually(look: Callable[[], Any]) -> Any:
    """Return what is seen as soon as there is something to see."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while True:
        with suppress(FileNotFoundError):
            if seen := look():
                return seen
        assert time.monotonic() < patience
        time.sleep(0.01)


Serve = Callable[..., Service]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@contextmanager
def _serving(folder: Path, provider: Provider, **how: Any) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> Service:
            defaults = {"OPENAI_API_KEY": "sk-canary-key", "OPENAI_BASE_URL": provider.url}
            service = Service(folder, {**defaults, **environment}, *arguments, **how)
            stack.callback(_end, service)
            return service

        yield start


def _end(service: Service) -> None:
    if service.process.poll() is None:
        service.kill()


@pytest.fixture
def program() -> str:
    """Return what runs a service, for tests to replace."""
    return PROGRAM


@pytest.fixture
def serve(tmp_path: Path, provider: Provider, program: str) -> Iterator[Serve]:
    """Return what starts a service in the test's folder, in front of the provider."""
    with _serving(tmp_path, provider, program=program) as start:
        yield start


@pytest.fixture
def serve_anew(tmp_path: Path, provider: Provider) -> Iterator[Serve]:
    """Return what does as `serve` does, but starts as users do."""
    with _serving(tmp_path, provider, anew=True) as start:
        yield start
