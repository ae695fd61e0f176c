"""The official Node SDK against live services. Its checks are in `node/*.mjs`, a theme a file."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from .conftest import Service
from .sdk_provider import SdkProvider, running_provider
from .sdk_service import ended, running_service, url

SCRIPTS = Path(__file__).parent / "node"
INSTALL_SECONDS = 300
RUN_SECONDS = 60

Outcomes = dict[str, list[dict[str, Any]]]


PATIENT = (
    "from chatport.domain import breaker; breaker.CONSECUTIVE_FAILURES = 1_000_000\n"
    "breaker.REMEMBERED_CALLS = 1_000_000\n"
    "from chatport.entrypoints.cli import main; main()"
)
"""The service as it is, but for a breaker that bears all the failures of these checks at once."""


@pytest.fixture(scope="session")
def node() -> str:
    """Return the `node` that can run the checks; the SDK is installed once."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return absent("node and npm are not both installed")
    modules = SCRIPTS / "node_modules"
    modules.mkdir(exist_ok=True)
    with FileLock(modules / ".installing"):
        if installed(modules / "openai") != pinned():
            done = subprocess.run(
                [npm, "install", "--ignore-scripts", "--loglevel=error"],
                cwd=SCRIPTS,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
            if done.returncode != 0:
                return absent(f"the SDK cannot be installed: {done.stderr}")
    return node


def absent(reason: str) -> str:
    """Skip, but not where the tests must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def installed(package: Path) -> str | None:
    """Return the version of a package in `node_modules`, if it is there."""
    file = package / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else None


def pinned() -> str:
    """Return the version that the checks are written for."""
    return str(json.loads((SCRIPTS / "package.json").read_text())["dependencies"]["openai"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[SdkProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("chatport")
    with running_service(upstream, folder, program=PATIENT) as service:
        yield service


@pytest.fixture(scope="module")
def strict(upstream: SdkProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service with a limit, that bears 1.5 s of silence: a quarter of the whole time."""
    settings = {"CHATPORT_USER_LIMIT": "1/hour", "CHATPORT_TIMEOUT_SECONDS": "6"}
    with running_service(upstream, tmp_path_factory.mktemp("strict"), **settings) as service:
        yield service


@pytest.fixture(scope="module")
def outcomes(node: str, upstream: SdkProvider, service: Service, strict: Service) -> Outcomes:
    """Run all checks at once, since many only wait, and return what became of them."""
    places = {
        "CHATPORT_URL": url(service),
        "STRICT_URL": url(strict),
        "PROVIDER_URL": upstream.origin,
    }
    done = subprocess.run(
        [node, str(SCRIPTS / "all.mjs")],
        env={**quiet_environment(), **places},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def quiet_environment() -> dict[str, str]:
    """Return the environment without what would steer the SDK, a proxy or Node itself."""
    loud = ("openai_", "node_", "http_proxy", "https_proxy", "all_proxy")
    return {name: value for name, value in os.environ.items() if not name.lower().startswith(loud)}


@pytest.mark.parametrize(
    ("theme", "checks"),
    [("answers", 13), ("errors", 22), ("leaving", 4), ("limits", 2), ("retries", 7)],
)
def test_the_node_sdk_gets_what_it_expects(
    outcomes: Outcomes, subtests: pytest.Subtests, theme: str, checks: int
) -> None:
    assert len(outcomes[theme]) == checks
    for outcome in outcomes[theme]:
        with subtests.test(outcome["name"]):
            if outcome["failure"] is not None:
                pytest.fail(outcome["failure"], pytrace=False)


def test_a_client_that_leaves_cancels_the_exchange(outcomes: Outcomes, service: Service) -> None:
    request_ids = [outcome["value"] for outcome in outcomes["leaving"]]
    assert [ended(service, request_id).state for request_id in request_ids] == ["cancelled"] * 4
