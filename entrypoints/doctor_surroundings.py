"""What the machine really says, gathered for the checks."""

import os
import resource
import secrets
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path

from chatport.domain.errors import StorageUnavailable
from chatport.domain.ports import LLMGateway

from .database_name import current_folder
from .doctor_installation import Surroundings
from .server import Serving
from .setting_values import UpstreamSetting

MOUNTS = Path("/proc/mounts")
POINTER_BITS = 64
PATIENCE_SECONDS = 20.0
UNLIMITED = 2**31


def surroundings(
    environment: Mapping[str, str], serving: Serving, *, network: bool
) -> Surroundings:
    """Return what this machine says."""
    from chatport.adapters.sqlite_inspection import (  # noqa: PLC0415  # `--help` needs none
        compile_options,
        has_word_index,
    )

    return Surroundings(
        environment=environment,
        folder=current_folder() or Path(),
        serving=serving,
        network=network,
        now=datetime.now(UTC),
        euid=os.geteuid(),
        python=sys.version_info[:3],
        bits=POINTER_BITS if sys.maxsize > 2**32 else POINTER_BITS // 2,
        has_gil=getattr(sys, "_is_gil_enabled", lambda: True)(),
        assertions=not sys.flags.optimize,
        sqlite_version=sqlite3.sqlite_version_info,
        sqlite_options=compile_options(),
        has_word_index=has_word_index(),
        pragmas=_pragmas(),
        temporary_folder=tempfile.gettempdir,
        most_open_files=_most_open_files(),
        core_bytes=resource.getrlimit(resource.RLIMIT_CORE)[0],
        mounts=MOUNTS.read_text() if MOUNTS.exists() else "",
        free_bytes=lambda folder: shutil.disk_usage(folder).free,
        random_bytes=secrets.token_bytes,
        resolve=lambda host: socket.getaddrinfo(host, None),
        gateway=_gateway,
    )


def _pragmas() -> Mapping[str, str]:
    """Return what SQLite makes of chatport's pragmas; nothing where no file can be written."""
    from chatport.adapters.sqlite_inspection import effective_pragmas  # noqa: PLC0415  # as above

    try:
        return effective_pragmas()
    except (OSError, StorageUnavailable):
        return {}


def _most_open_files() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if hard == resource.RLIM_INFINITY else hard


def _gateway(setting: UpstreamSetting) -> AbstractContextManager[LLMGateway]:
    from chatport.adapters import OpenAIGateway  # noqa: PLC0415  # a third of a second

    key = setting.key.reveal() if setting.key else ""
    return closing(
        OpenAIGateway(api_key=key, base_url=setting.url, timeout_seconds=PATIENCE_SECONDS)
    )
