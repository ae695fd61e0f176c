"""A service that answers for long needs no more of its machine than one that has just begun.

The file is also the program that is watched: a process of its own, in which no other test runs.
"""

import gc
import io
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.settings import Settings
from chatport.entrypoints.wiring import Place, assembled
from torture import times

REQUESTS = times(20_000, 200_000)
LOOKS = 20
"""How often the process is looked at, at even distances."""

WARM_UP = 12
"""Looks that do not count: caches fill, of SQLite, of Python and of the C library."""

PAGE = os.sysconf("SC_PAGE_SIZE")
WAL_BYTES = 64 * 1024 * 1024
BYTES_A_REQUEST = 1_000
"""10 to 220 were measured: SQLite's cache fills, and the allocator takes a megabyte at a time."""

OBJECTS_A_REQUEST = 0.1
"""0.02 were measured, up or down: whoever keeps something of one request in ten is seen."""

SEED, CHAT = "/openai-completion", "/v1/chat/completions"
RULES = {
    "CHATPORT_USER_LIMIT": "50/minute",
    "CHATPORT_CALLER_LIMIT": "1000000/minute",
    "CHATPORT_TOTAL_LIMIT": "1000000/minute",
    "CHATPORT_USER_BUDGET": "100000 tokens/day",
    "CHATPORT_CALLER_BUDGET": "100000000000 tokens/day",
}


# The program that is watched


def process(path: str) -> None:
    """Answer requests of which no two are of the same user, and say now and then how it is."""
    settings = Settings.from_mapping({"CHATPORT_DATABASE": f"sqlite:///{path}", **RULES})
    with assembled(settings, Place(offline=True)) as parts:
        app = create_app(parts.service, parts.ready, authenticate=parts.doorkeeper.authenticate)
        gc.freeze()  # what is there already would be looked through at each of the looks
        looks = []
        for number in range(REQUESTS):
            ask(app, number)
            if (number + 1) % (REQUESTS // LOOKS) == 0:
                looks.append(look(path))
        sys.stdout.write(json.dumps(looks))


def ask(app: Flask, number: int) -> None:
    """Send the request of this number: a quarter are written, most others are cheap."""
    kind, first = number % 12, number - number % 12
    prompt = {"user_id": f"user-{number}", "prompt": f"Hello {number}", "stream": kind == 0}
    messages = [{"role": "user", "content": f"Hello {number}"}]
    chat = {"model": "m", "user": f"user-{number}", "messages": messages, "stream": first % 24 == 0}
    if kind < 2:
        call(app, "POST", SEED, f"key-{number}", prompt)
    elif kind == 2:
        call(app, "POST", CHAT, f"key-{number}", chat)
    elif kind < 5:
        call(app, "GET", f"/conversations/user-{number}")
    elif kind == 5:  # again, and so answered from the log
        again = {"user_id": f"user-{first + 1}", "prompt": f"Hello {first + 1}", "stream": False}
        call(app, "POST", SEED, f"key-{first + 1}", again)
    elif kind == 6:  # another request, with a key that was used
        call(app, "POST", SEED, f"key-{first + 1}", prompt, status=422)
    elif kind < 9:
        call(app, "POST", SEED, f"key-{number}", {**prompt, f"field-{number}": 1}, status=400)
    elif kind < 11:
        call(app, "POST", CHAT, f"key-{number}", {**chat, "messages": []}, status=400)
    else:
        call(app, "GET", f"/v1/models/model-{number}", status=404)


def call(
    app: Flask, method: str, path: str, key: str = "", body: Any = None, *, status: int = 200
) -> None:
    """Ask as a server does: a test client takes a fifth of the time for itself."""
    data = b"" if body is None else json.dumps(body).encode()
    begun: list[int] = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(data)),
        "HTTP_HOST": "localhost",
        **({"HTTP_IDEMPOTENCY_KEY": key} if key else {}),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(data),
    }

    def begin(line: str, _headers: Any, _error: Any = None) -> Any:
        begun.append(int(line[:3]))

    answer: Any = app(environ, begin)
    said = b"".join(answer)
    answer.close()
    assert begun == [status], said


def look(path: str) -> dict[str, int]:
    """Return what the process holds."""
    gc.collect()
    wal = 0
    with suppress(FileNotFoundError):
        wal = Path(f"{path}-wal").stat().st_size
    return {
        "objects": sys.getallocatedblocks(),
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": threading.active_count(),
        "wal": wal,
    }


# The test


def slope(values: list[int]) -> float:
    """Return by how much a value grows from one look to the next, by least squares."""
    middle = (len(values) - 1) / 2
    weights = [n - middle for n in range(len(values))]
    pairs = zip(weights, values, strict=True)
    return sum(weight * value for weight, value in pairs) / sum(weight**2 for weight in weights)


@pytest.mark.long
def test_many_requests_of_strangers_leave_nothing_behind_in_the_process(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, __file__, tmp_path / "log.db"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=REQUESTS / 20,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    looks = json.loads(run.stdout)[WARM_UP:]
    held = {name: [each[name] for each in looks] for name in looks[0]}
    growth = {name: slope(held[name]) / (REQUESTS / LOOKS) for name in ("objects", "rss")}
    assert growth["objects"] < OBJECTS_A_REQUEST, held["objects"]
    assert growth["rss"] < BYTES_A_REQUEST, held["rss"]
    assert len(set(held["files"])) == 1, held["files"]
    assert len(set(held["threads"])) == 1, held["threads"]
    assert max(held["wal"]) < WAL_BYTES


if __name__ == "__main__":
    process(sys.argv[1])
