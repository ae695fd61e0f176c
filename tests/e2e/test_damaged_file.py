"""A live service whose file is damaged while it runs, and a start on one that is."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from .conftest import Serve, eventually

PAGE = 4096
CORRUPT = (503, "storage_corrupt")
FAILED_TO_BEGIN = b"what was left open stays so for now: storage_corrupt"


def damage(path: Path) -> None:
    """Overwrite all but the first page, as a failing disk does."""
    with path.open("r+b") as file:
        length = file.seek(0, 2)
        file.seek(PAGE)
        file.write(b"\xa5" * (length - PAGE))


def ready(service: Any) -> tuple[int, str]:
    """Return status and code of `/readyz`."""
    with closing(service.connect()) as connection:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, json.loads(response.read()).get("code", "")


def asked(service: Any, user_id: str) -> tuple[int, str]:
    """Return status and code of a request."""
    status, body, _ = service.ask({"user_id": user_id, "prompt": "hello"})
    return status, body.get("code", "")


def test_a_damaged_file_is_written_by_no_worker_any_more(serve: Serve, provider: Any) -> None:
    service = serve("--workers", "2", CHATPORT_TOTAL_LIMIT="")
    assert asked(service, "ada") == (200, "")
    damage(service.folder / "chatport.db")
    for n in range(20):
        if asked(service, f"user-{n}") != (200, ""):
            break
    provider.prompts.clear()
    assert {asked(service, f"other-{n}") for n in range(12)} == {CORRUPT}
    assert {ready(service) for _ in range(12)} == {CORRUPT}
    service.kill_workers()
    eventually(lambda: service.log.read_bytes().count(FAILED_TO_BEGIN) >= 2)
    assert service.process.poll() is None
    assert {asked(service, f"later-{n}") for n in range(12)} == {CORRUPT}
    assert {ready(service) for _ in range(12)} == {CORRUPT}
    assert list(provider.prompts) == []
    assert service.stop() == 0
