"""The adapters that chatport ships, each imported when it is first asked for.

`OpenAIGateway` alone costs a third of a second and 50 MB, which nobody else should pay.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .free_of_charge import FreeOfCharge as FreeOfCharge
    from .genai_price_list import GenaiPriceList as GenaiPriceList
    from .limits_counter import LimitsCounter as LimitsCounter
    from .memory_keys import MemoryKeys as MemoryKeys
    from .memory_store import MemoryStore as MemoryStore
    from .memory_usage import MemoryUsage as MemoryUsage
    from .offline_gateway import OfflineGateway as OfflineGateway
    from .openai_gateway import OpenAIGateway as OpenAIGateway
    from .peewee_keys import PeeweeKeys as PeeweeKeys
    from .peewee_store import PeeweeStore as PeeweeStore
    from .peewee_usage import PeeweeUsage as PeeweeUsage
    from .price import Price as Price
    from .price_file import PriceFileError as PriceFileError
    from .price_file import read_prices as read_prices
    from .random_keys import random_key_id as random_key_id
    from .random_keys import random_secret as random_secret
    from .scripted_gateway import Script as Script
    from .scripted_gateway import ScriptedGateway as ScriptedGateway
    from .sqlite_session import SqliteSession as SqliteSession
    from .system import SystemClock as SystemClock
    from .system import random_id as random_id
    from .turns import let_others_run as let_others_run
    from .whole_file import look_through as look_through
    from .window_table import WindowTable as WindowTable

MODULES = {
    "FreeOfCharge": "free_of_charge",
    "GenaiPriceList": "genai_price_list",
    "LimitsCounter": "limits_counter",
    "MemoryKeys": "memory_keys",
    "MemoryStore": "memory_store",
    "MemoryUsage": "memory_usage",
    "OfflineGateway": "offline_gateway",
    "OpenAIGateway": "openai_gateway",
    "PeeweeKeys": "peewee_keys",
    "PeeweeStore": "peewee_store",
    "PeeweeUsage": "peewee_usage",
    "Price": "price",
    "PriceFileError": "price_file",
    "Script": "scripted_gateway",
    "ScriptedGateway": "scripted_gateway",
    "SqliteSession": "sqlite_session",
    "SystemClock": "system",
    "WindowTable": "window_table",
    "let_others_run": "turns",
    "look_through": "whole_file",
    "random_id": "system",
    "random_key_id": "random_keys",
    "random_secret": "random_keys",
    "read_prices": "price_file",
}

__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{MODULES[name]}", __name__), name)
