"""A service that answers for long needs no more of its machine than one that has just begun.

The file is also the program that is watched: a process of its own, in which no other test runs.
"""

import gc
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from flask.testing import FlaskClient

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
BYTES_A_REQUEST = 1024
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
        client = app.test_client()
        looks = []
        for number in range(REQUESTS):
            ask(client, number)
            if (number + 1) % (REQUESTS // LOOKS) == 0:
                looks.append(look(path))
        sys.stdout.write(json.dumps(looks))


def ask(client: FlaskClient, number: int) -> None:
    user, headers = f"user-{number}", {"Idempotency-Key": f"key-{number}"}
    kind = number % 8
    if kind < 5:
        body = {"user_id": user, "prompt": f"Hello {number}", "stream": kind == 0}
        answer = client.post("/openai-completion", json=body, headers=headers)
    elif kind < 7:
        messages = [{"role": "user", "content": f"Hello {number}"}]
        chat = {"model": "m", "user": user, "messages": messages, "stream": kind == 5}
        answer = client.post("/v1/chat/completions", json=chat, headers=headers)
    else:
        answer = client.get(f"/conversations/user-{number - 7}")
    assert answer.status_code == 200, answer.data
    answer.get_data()
    answer.close()


def look(path: str) -> dict[str, int]:
    """Return what the process holds."""
    gc.collect()
    wal = 0
    with suppress(FileNotFoundError):
        wal = Path(f"{path}-wal").stat().st_size
    return {
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
        timeout=REQUESTS / 50,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    looks = json.loads(run.stdout)[WARM_UP:]
    held = {name: [each[name] for each in looks] for name in looks[0]}
    growth = slope(held["rss"]) / (REQUESTS / LOOKS)
    assert growth < BYTES_A_REQUEST, held["rss"]
    assert len(set(held["files"])) == 1, held["files"]
    assert len(set(held["threads"])) == 1, held["threads"]
    assert max(held["wal"]) < WAL_BYTES


if __name__ == "__main__":
    process(sys.argv[1])
