"""Callers and their keys in SQLite, through peewee."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import peewee

from chatport.domain.admin_ports import KeyStore
from chatport.domain.callers import Caller, Role
from chatport.domain.errors import CallerExists, CallerNotFound
from chatport.domain.keys import ApiKey
from chatport.domain.rules import Rule, notation, parse_budgets, parse_limits

from .exchange_table import SQLITE, Compiled, hole, timestamp
from .sqlite_database import SqliteFile
from .sqlite_session import SqliteSession

Row = Mapping[str, Any]


class CallerRow(peewee.Model):
    """A caller. Rules are in their notation, where NULL is what the service sets for everybody."""

    name = peewee.TextField(primary_key=True)
    role = peewee.TextField()
    limits = peewee.TextField(null=True)
    budgets = peewee.TextField(null=True)
    user_limits = peewee.TextField(null=True)
    user_budgets = peewee.TextField(null=True)
    models = peewee.TextField()
    created_at = peewee.TextField()

    class Meta:
        """Made by the migrations."""

        database = SQLITE
        table_name = "caller"


class ApiKeyRow(peewee.Model):
    """A key, without its secret."""

    id = peewee.TextField(primary_key=True)
    caller = peewee.TextField(index=True)
    secret_hash = peewee.BlobField()
    created_at = peewee.TextField()
    expires_at = peewee.TextField(null=True)
    revoked_at = peewee.TextField(null=True)

    class Meta:
        """Made by the migrations."""

        database = SQLITE
        table_name = "api_key"


TERMS = ("role", "limits", "budgets", "user_limits", "user_budgets", "models")
KEY = ("id", "caller", "secret_hash", "created_at", "expires_at", "revoked_at")


class PeeweeKeys(KeyStore):
    """Keeps callers and keys in the file of a session. Who made the session closes it.

    Args:
        session: The way to the file; that of a `PeeweeStore` shares its commits.
    """

    def __init__(self, session: SqliteSession) -> None:
        self._session = session
        self._queries = _queries()

    def add(self, caller: Caller, key: ApiKey) -> None:
        """Commit a caller with its first key."""
        row = {**_caller_row(caller), "created_at": timestamp(key.created_at)}

        def work(file: SqliteFile) -> None:
            if _run(file.writer, self._queries.caller, row).fetchone() is not None:
                raise CallerExists
            _run(file.writer, self._queries.add_caller, row)
            _run(file.writer, self._queries.add_key, _key_row(key))

        self._session.write(work)

    def change(self, caller: Caller) -> None:
        """Commit what is kept of a caller."""
        row = _caller_row(caller)
        changed = self._session.write(
            lambda file: _run(file.writer, self._queries.change, row).rowcount
        )
        if not changed:
            raise CallerNotFound

    def rotate(self, key: ApiKey, *, old_until: datetime) -> None:
        """Commit a key, and when the caller's others expire."""
        row = _key_row(key)
        old = {"caller": key.caller, "until": timestamp(old_until)}

        def work(file: SqliteFile) -> None:
            self._refuse_unknown(file, key.caller)
            _run(file.writer, self._queries.let_expire, old)
            _run(file.writer, self._queries.add_key, row)

        self._session.write(work)

    def revoke(self, name: str, at: datetime) -> int:
        """Commit that a caller's keys are revoked."""
        row = {"caller": name, "at": timestamp(at)}

        def work(file: SqliteFile) -> int:
            self._refuse_unknown(file, name)
            return int(_run(file.writer, self._queries.revoke, row).rowcount)

        return self._session.write(work)

    def revoke_key(self, key_id: str, at: datetime) -> None:
        """Commit that a key is revoked; the first time stays."""
        row = {"id": key_id, "at": timestamp(at)}
        found = self._session.write(
            lambda file: _run(file.writer, self._queries.revoke_key, row).rowcount
        )
        if not found:
            raise CallerNotFound

    def key(self, key_id: str) -> ApiKey | None:
        """Return a key.

        Where there is no such key, its neighbour is read, so that it takes the same time.
        """
        for row in self._read(self._queries.key, {"id": key_id}):
            key = _key(row)
            return key if key.id == key_id else None
        return None  # there is none at all

    def caller(self, name: str) -> Caller | None:
        """Return a caller."""
        rows = self._read(self._queries.caller, {"name": name})
        return _caller(rows[0]) if rows else None

    def callers(self, *, after: str = "", limit: int = 100) -> Sequence[Caller]:
        """Return a page of callers."""
        rows = self._read(self._queries.callers, {"name": after, "limit": limit})
        return [_caller(row) for row in rows]

    def keys_of(self, name: str) -> Sequence[ApiKey]:
        """Return the keys of a caller, oldest first."""
        return [_key(row) for row in self._read(self._queries.keys_of, {"caller": name})]

    def is_empty(self) -> bool:
        """Return whether there never was a caller."""
        return not self._read(self._queries.callers, {"name": "", "limit": 1})

    def _read(self, query: Compiled, row: Row) -> list[tuple[Any, ...]]:
        return self._session.read(lambda file: list(_run(file.reader, query, row)))

    def _refuse_unknown(self, file: SqliteFile, name: str) -> None:
        if _run(file.writer, self._queries.caller, {"name": name}).fetchone() is None:
            raise CallerNotFound


class _Queries:
    """The queries, compiled once by peewee; they belong to no open file."""

    def __init__(self) -> None:
        caller: Any = CallerRow
        key: Any = ApiKeyRow
        name, of_caller = caller.name == hole("name"), key.caller == hole("caller")
        terms = {each: hole(each) for each in TERMS}
        named = caller.select(caller.name, *(getattr(caller, each) for each in TERMS))
        kept = key.select(*(getattr(key, each) for each in KEY))
        revoked = {"revoked_at": peewee.fn.COALESCE(key.revoked_at, hole("at"))}
        self.add_caller = Compiled(
            caller.insert({**terms, "name": hole("name"), "created_at": hole("created_at")})
        )
        self.change = Compiled(caller.update(terms).where(name))
        self.caller = Compiled(named.where(name))
        self.callers = Compiled(
            named.where(caller.name > hole("name")).order_by(caller.name).limit(hole("limit"))
        )
        self.add_key = Compiled(key.insert({each: hole(each) for each in KEY}))
        self.let_expire = Compiled(
            key.update({"expires_at": hole("until")}).where(
                of_caller & (key.expires_at.is_null() | (key.expires_at > hole("until")))
            )
        )
        self.revoke = Compiled(key.update(revoked).where(of_caller & key.revoked_at.is_null()))
        self.revoke_key = Compiled(key.update(revoked).where(key.id == hole("id")))
        self.keys_of = Compiled(kept.where(of_caller).order_by(key.created_at, peewee.SQL("rowid")))
        # The key of this id or else the one before it, of which the first has none: whatever the
        # id, the index is searched twice and one row is read.
        first = key.alias()
        nearest = peewee.fn.MAX(hole("id"), first.select(peewee.fn.MIN(first.id)))
        self.key = Compiled(kept.where(key.id <= nearest).order_by(key.id.desc()).limit(1))


_queries = cache(_Queries)


def _run(database: Any, query: Compiled, row: Row) -> Any:
    return database.execute_sql(query.sql, query.values(row))


def _caller_row(caller: Caller) -> dict[str, Any]:
    return {
        "name": caller.name,
        "role": caller.role.value,
        "limits": _written(caller.limits),
        "budgets": _written(caller.budgets),
        "user_limits": _written(caller.user_limits),
        "user_budgets": _written(caller.user_budgets),
        "models": ",".join(caller.models),
    }


def _caller(row: Sequence[Any]) -> Caller:
    name, role, limits, budgets, user_limits, user_budgets, models = row
    return Caller(
        name=name,
        role=Role(role),
        limits=None if limits is None else parse_limits(limits),
        budgets=None if budgets is None else parse_budgets(budgets),
        user_limits=None if user_limits is None else parse_limits(user_limits),
        user_budgets=None if user_budgets is None else parse_budgets(user_budgets),
        models=_names(models),
    )


def _written(rules: Sequence[Rule] | None) -> str | None:
    return None if rules is None else notation(rules)


def _names(models: str) -> Collection[str]:
    return tuple(models.split(",")) if models else ()


def _key_row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "caller": key.caller,
        "secret_hash": key.secret_hash,
        "created_at": timestamp(key.created_at),
        "expires_at": timestamp(key.expires_at) if key.expires_at else None,
        "revoked_at": timestamp(key.revoked_at) if key.revoked_at else None,
    }


def _key(row: Sequence[Any]) -> ApiKey:
    key_id, caller, secret_hash, created_at, expires_at, revoked_at = row
    return ApiKey(
        id=key_id,
        caller=caller,
        secret_hash=secret_hash,
        created_at=datetime.fromisoformat(created_at),
        expires_at=datetime.fromisoformat(expires_at) if expires_at else None,
        revoked_at=datetime.fromisoformat(revoked_at) if revoked_at else None,
    )
