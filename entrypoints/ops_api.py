"""`/healthz` and `/readyz`: whether the process lives, and whether it should get requests."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint

from chatport.domain.errors import ChatportError


def blueprint(ready: Callable[[], dict[str, str]]) -> Blueprint:
    """Return the routes around a check of the parts."""
    api = Blueprint("ops", __name__)

    @api.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        try:
            checks = ready()
        except ChatportError as error:
            return {"status": "not ready", "reason": str(error), "code": error.code}, 503
        troubled = any(check.startswith("degraded") for check in checks.values())
        return {"status": "degraded" if troubled else "ready", "checks": checks}, 200

    return api
