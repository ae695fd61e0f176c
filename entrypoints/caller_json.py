"""A caller and its keys as JSON, for admins."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from chatport.domain.callers import Caller
from chatport.domain.keys import ApiKey
from chatport.domain.rules import Rule, notation


def encode_caller(caller: Caller, keys: Sequence[ApiKey], now: datetime) -> dict[str, Any]:
    """Return a caller for machines; null where the service's own rules apply."""
    return {
        "name": caller.name,
        "role": caller.role.value,
        "limits": _notation(caller.limits),
        "budgets": _notation(caller.budgets),
        "user_limits": _notation(caller.user_limits),
        "user_budgets": _notation(caller.user_budgets),
        "models": list(caller.models),
        "keys": [_encode_key(key, now) for key in keys],
    }


def _notation(rules: Sequence[Rule] | None) -> str | None:
    return None if rules is None else notation(rules)


def _encode_key(key: ApiKey, now: datetime) -> dict[str, Any]:
    """Return what may be known of a key: not its hash."""
    return {
        "id": key.id,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "condition": key.condition(now).value,
    }
