"""The adapters that chatport ships, each imported when it is first asked for.

`OpenAIGateway` alone costs a third of a second and 50 MB, which nobody else should pay.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .limits_counter import LimitsCounter as LimitsCounter
    from .memory_store import MemoryStore as MemoryStore
    from .offline_gateway import OfflineGateway as OfflineGateway
    from .openai_gateway import OpenAIGateway as OpenAIGateway
    from .peewee_store import PeeweeStore as PeeweeStore
    from .scripted_gateway import Script as Script
    from .scripted_gateway import ScriptedGateway as ScriptedGateway
    from .system import SystemClock as SystemClock
    from .system import random_id as random_id
    from .window_table import WindowTable as WindowTable

MODULES = {
    "LimitsCounter": "limits_counter",
    "MemoryStore": "memory_store",
    "OfflineGateway": "offline_gateway",
    "OpenAIGateway": "openai_gateway",
    "PeeweeStore": "peewee_store",
    "Script": "scripted_gateway",
    "ScriptedGateway": "scripted_gateway",
    "SystemClock": "system",
    "WindowTable": "window_table",
    "random_id": "system",
}

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{MODULES[name]}", __name__), name)
