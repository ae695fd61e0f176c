"""`/admin/...`: what was used and refused, the log of all exchanges, callers and their keys."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import dropwhile, islice
from typing import Any

from flask import Blueprint

from chatport.domain.admin_ports import UsageLog
from chatport.domain.callers import Caller, Role
from chatport.domain.errors import ExchangeNotFound
from chatport.domain.model import LogQuery, State
from chatport.domain.ports import Clock
from chatport.domain.rules import parse_budgets, parse_limits
from chatport.domain.usage import By, RefusalQuery, UsageQuery

from .admin import Admin
from .admin_wire import CallerChanges, CallersPage, LogPage, NewCaller, Rotation, UsagePage
from .caller_json import encode_caller
from .exchange_json import encode
from .request_body import body_bytes, parsed_object
from .request_query import parsed_query
from .usage_json import encode_refusal, encode_usage, midnight, refusals
from .wire import checked

PARSED = {
    "role": Role,
    "limits": parse_limits,
    "budgets": parse_budgets,
    "user_limits": parse_limits,
    "user_budgets": parse_budgets,
    "models": tuple,
}
"""What makes a fact of a caller's out of the text that says it."""


def blueprint(admin: Admin) -> Blueprint:
    """Return the routes. Only admins may reach them, which the application sees to."""
    api = Blueprint("admin", __name__)
    _add_statistics(api, admin)
    _add_callers(api, admin)
    _add_keys(api, admin)
    return api


def _add_statistics(api: Blueprint, admin: Admin) -> None:
    @api.get("/admin/usage")
    def read_usage() -> dict[str, Any]:
        return _usage(admin.usage, parsed_query(UsagePage))

    @api.get("/admin/log")
    def search_log() -> dict[str, Any]:
        asked = parsed_query(LogPage)
        found = admin.store.search(_log_query(asked))
        shown = found[: asked.limit]
        return {
            "exchanges": [encode(exchange) for exchange in shown],
            "before": shown[-1].number if len(found) > asked.limit else None,
        }

    @api.get("/admin/log/<exchange_id>")
    def read_exchange(exchange_id: str) -> dict[str, Any]:
        exchange = admin.store.find(exchange_id)
        if exchange is None:
            raise ExchangeNotFound
        return encode(exchange)


def _usage(log: UsageLog, asked: UsagePage) -> dict[str, Any]:
    """Return one page of usage and one of refusals, where either may be at its end."""
    more, start = asked.limit + 1, asked.offset
    rows = log.usage(
        UsageQuery(
            by=By(asked.by),
            since=asked.since,
            until=asked.until,
            caller=asked.caller,
            limit=more,
            offset=start,
        )
    )
    query = RefusalQuery(since=midnight(asked.since), caller=asked.caller)
    refused = list(islice(refusals(log, query, asked.until), start, start + more))
    return {
        "rows": [encode_usage(row) for row in rows[: asked.limit]],
        "refusals": [encode_refusal(refusal) for refusal in refused[: asked.limit]],
        "next_offset": start + asked.limit if max(len(rows), len(refused)) == more else None,
    }


def _log_query(asked: LogPage) -> LogQuery:
    return LogQuery(
        text=asked.text,
        caller=asked.caller,
        user_id=asked.user,
        state=State(asked.state) if asked.state else None,
        since=midnight(asked.since),
        before=asked.before,
        limit=asked.limit + 1,
    )


def _add_callers(api: Blueprint, admin: Admin) -> None:
    @api.get("/admin/keys")
    def list_callers() -> dict[str, Any]:
        asked = parsed_query(CallersPage)
        after = asked.after or ""
        later = dropwhile(lambda found: found[0].name <= after, admin.keys.list())
        found = list(islice(later, asked.limit + 1))
        shown = found[: asked.limit]
        return {
            "callers": [encode_caller(*each, admin.clock.now()) for each in shown],
            "after": shown[-1][0].name if len(found) > asked.limit else None,
        }

    @api.get("/admin/keys/<name>")
    def show_caller(name: str) -> dict[str, Any]:
        return _shown(admin, name)

    @api.patch("/admin/keys/<name>")
    def change_caller(name: str) -> dict[str, Any]:
        asked = checked(CallerChanges, parsed_object(body_bytes()))
        caller, keys = admin.keys.show(name)
        changed = replace(caller, **_facts(asked.model_dump(exclude_unset=True)))
        admin.keys.change(changed)
        return encode_caller(changed, keys, admin.clock.now())


def _add_keys(api: Blueprint, admin: Admin) -> None:
    @api.post("/admin/keys")
    def create_caller() -> dict[str, Any]:
        asked = checked(NewCaller, parsed_object(body_bytes()))
        caller = Caller(
            name=asked.name, **_facts(asked.model_dump(exclude={"name", "expires_in_seconds"}))
        )
        key = admin.keys.create(caller, _expiry(admin.clock, asked.expires_in_seconds))
        return {"key": key, "caller": _shown(admin, caller.name)}

    @api.post("/admin/keys/<name>/rotate")
    def rotate_key(name: str) -> dict[str, Any]:
        asked = checked(Rotation, parsed_object(body_bytes()))
        overlap = timedelta(seconds=asked.overlap_seconds)
        expires_at = _expiry(admin.clock, asked.expires_in_seconds)
        key = admin.keys.rotate(name, overlap, expires_at)
        return {"key": key, "caller": _shown(admin, name)}

    @api.delete("/admin/keys/<name>")
    def revoke_keys(name: str) -> dict[str, Any]:
        return {"name": name, "revoked": admin.keys.revoke(name)}


def _facts(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said of a caller, as the domain has it; null stays null."""
    return {name: None if it is None else PARSED[name](it) for name, it in said.items()}


def _expiry(clock: Clock, seconds: int | None) -> datetime | None:
    return None if seconds is None else clock.now() + timedelta(seconds=seconds)


def _shown(admin: Admin, name: str) -> dict[str, Any]:
    return encode_caller(*admin.keys.show(name), admin.clock.now())
