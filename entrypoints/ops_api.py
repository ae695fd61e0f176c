"""`/healthz` and `/readyz`: whether the process lives, and whether it should get requests."""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, request

from chatport.domain.errors import ChatportError

from .client_presence import is_stopping
from .faults import SHUTDOWN, STOPPING


def blueprint(ready: Callable[[], dict[str, str]]) -> Blueprint:
    """Return the routes around a check of the parts."""
    api = Blueprint("ops", __name__)

    @api.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        if is_stopping(request.environ):
            return {"status": "not ready", "reason": STOPPING, "code": SHUTDOWN}, 503
        try:
            checks = ready()
        except ChatportError as error:
            return {"status": "not ready", "reason": str(error), "code": error.code}, 503
        troubled = any(check.startswith("degraded") for check in checks.values())
        return {"status": "degraded" if troubled else "ready", "checks": checks}, 200

    return api
