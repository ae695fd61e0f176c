"""The tables, and how a record of the domain becomes a row and back.

peewee owns the schema and builds every query; the hot ones are built once per process and then
executed as compiled SQL: 10 us for a history instead of 116.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import peewee

from chatport.domain.history import PastTurn
from chatport.domain.model import Exchange, State, Usage
from chatport.domain.relay import RequestText

SQLITE = peewee.SqliteDatabase(None)
"""What the models belong to. It has no file, and is never opened: each query is bound to a store's
database, or compiled.
"""


class ExchangeRow(peewee.Model):
    """A row of the log. Times are ISO 8601 in UTC with microseconds, so that text order is time."""

    id = peewee.AutoField()
    public_id = peewee.TextField(unique=True)
    caller = peewee.TextField()
    user_id = peewee.TextField()
    state = peewee.TextField()
    route = peewee.TextField()
    model = peewee.TextField()
    prompt = peewee.TextField()
    context_from = peewee.IntegerField(null=True)
    reply = peewee.TextField(default="")
    sanitized = peewee.BooleanField(default=False)
    finish_reason = peewee.TextField(null=True)
    prompt_tokens = peewee.IntegerField(null=True)
    completion_tokens = peewee.IntegerField(null=True)
    tokens_estimated = peewee.BooleanField(default=False)
    turn_tokens = peewee.IntegerField(default=0)
    error_code = peewee.TextField(null=True)
    upstream_status = peewee.IntegerField(null=True)
    upstream_request_id = peewee.TextField(null=True)
    attempts = peewee.IntegerField(default=0)
    started_at = peewee.TextField()
    finished_at = peewee.TextField(null=True)
    lease_until = peewee.TextField()
    owner = peewee.TextField(default="")
    parameters_id = peewee.IntegerField(null=True)
    messages_id = peewee.IntegerField(null=True)
    final = peewee.BooleanField(default=False)
    idempotency_key = peewee.TextField(null=True)
    request_hash = peewee.TextField(null=True)
    cached_tokens = peewee.IntegerField(default=0)
    nanodollars = peewee.IntegerField(null=True)
    reserved_in = peewee.IntegerField(default=0)
    upstream_said = peewee.TextField(null=True)
    answer = peewee.BlobField(null=True)

    class Meta:
        """Indexes are made by the migrations, since most of them are partial."""

        database = SQLITE
        table_name = "exchange"


class RefusalRow(peewee.Model):
    """How often a limit refused a caller in one minute."""

    caller = peewee.TextField()
    rule = peewee.TextField()
    minute = peewee.TextField()
    count = peewee.IntegerField(default=0)

    class Meta:
        """One row per caller, rule and minute."""

        database = SQLITE
        table_name = "refusal"
        primary_key = peewee.CompositeKey("caller", "rule", "minute")


def timestamp(at: datetime) -> str:
    """Return the time as the tables keep it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def to_row(exchange: Exchange) -> dict[str, Any]:
    """Return the columns of an exchange, without the ones that the store itself fills."""
    usage = exchange.usage
    return {
        "public_id": exchange.id,
        "caller": exchange.caller,
        "user_id": exchange.user_id,
        "state": exchange.state.value,
        "route": exchange.route,
        "model": exchange.model,
        "prompt": exchange.prompt,
        "reply": exchange.reply,
        "sanitized": exchange.sanitized,
        "finish_reason": exchange.finish_reason,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else 0,
        "tokens_estimated": bool(usage and usage.estimated),
        "nanodollars": exchange.nanodollars,
        "turn_tokens": exchange.turn_tokens,
        "error_code": exchange.error_code,
        "upstream_status": exchange.upstream_status,
        "upstream_request_id": exchange.upstream_request_id,
        "upstream_said": exchange.upstream_said,
        "attempts": exchange.attempts,
        "started_at": timestamp(exchange.started_at),
        "finished_at": timestamp(exchange.finished_at) if exchange.finished_at else None,
        "lease_until": timestamp(exchange.lease_until),
        "answer": packed(exchange.answer),
        "final": exchange.final,
        "idempotency_key": exchange.idempotency_key,
        "request_hash": exchange.request_hash,
    }


past_turn: Callable[[tuple[Any, ...]], PastTurn] = partial(tuple.__new__, PastTurn)
"""Make a PastTurn of a row as it comes from SQLite, without a look at its length."""


def to_exchange(row: Mapping[str, Any], request: RequestText | None = None) -> Exchange:
    """Return the exchange of a row, with its answer if the row has that column."""
    return Exchange(
        id=row["public_id"],
        number=row["id"],
        caller=row["caller"],
        user_id=row["user_id"],
        state=State(row["state"]),
        route=row["route"],
        model=row["model"],
        prompt=row["prompt"],
        context_from=row["context_from"],
        reply=row["reply"],
        sanitized=bool(row["sanitized"]),
        finish_reason=row["finish_reason"],
        usage=_usage(row),
        nanodollars=row["nanodollars"],
        turn_tokens=row["turn_tokens"],
        error_code=row["error_code"],
        upstream_status=row["upstream_status"],
        upstream_request_id=row["upstream_request_id"],
        upstream_said=row["upstream_said"],
        attempts=row["attempts"],
        started_at=datetime.fromisoformat(row["started_at"]),
        finished_at=datetime.fromisoformat(row["finished_at"]) if row["finished_at"] else None,
        lease_until=datetime.fromisoformat(row["lease_until"]),
        request=request,
        answer=tuple(unpacked(row.get("answer"))),
        final=bool(row["final"]),
        idempotency_key=row["idempotency_key"],
        request_hash=row["request_hash"],
    )


_SIZE = struct.Struct(">I")


def packed(pieces: Sequence[bytes]) -> bytes | None:
    """Return the pieces of an answer, each after its size, compressed; None if there are none."""
    if not pieces:
        return None
    return zlib.compress(b"".join(_SIZE.pack(len(piece)) + piece for piece in pieces), 1)


def unpacked(answer: bytes | None) -> Iterator[bytes]:
    """Yield the pieces of an answer."""
    data = zlib.decompress(answer) if answer else b""
    start = 0
    while start < len(data):
        (size,) = _SIZE.unpack_from(data, start)
        start += _SIZE.size + size
        yield data[start - size : start]


def _usage(row: Mapping[str, Any]) -> Usage | None:
    if row["prompt_tokens"] is None or row["completion_tokens"] is None:
        return None
    return Usage(
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cached_tokens=row["cached_tokens"],
        estimated=bool(row["tokens_estimated"]),
    )


class Compiled:
    """A query built once, with a named hole for each value."""

    def __init__(self, query: Any) -> None:
        self.sql, holes = query.sql()
        self._holes: Sequence[Any] = holes

    def values(self, row: Mapping[str, Any]) -> list[Any]:
        """Return the values for the holes, in the query's order; constants stay as they are."""
        return [row[hole.name] if isinstance(hole, _Name) else hole for hole in self._holes]


class _Name:
    def __init__(self, name: str) -> None:
        self.name = name


def hole(name: str) -> peewee.Value:
    """Return a place in a query that `Compiled.values` fills."""
    return peewee.Value(_Name(name), converter=False, unpack=False)
