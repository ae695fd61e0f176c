"""The hot queries on the log, built by peewee once and then executed as SQL."""

from functools import cache
from typing import Any

import peewee

from .exchange_table import Compiled, ExchangeRow, RefusalRow, hole

COLUMNS: tuple[str, ...] = tuple(ExchangeRow._meta.sorted_field_names)  # noqa: SLF001  # peewee's documented name
"""All of them, in the order in which a query for a whole exchange returns them."""

ATTEMPT = (
    *("id", "public_id", "request_hash", "state", "final", "owner", "lease_until"),
    *("parameters_id", "messages_id"),
)
"""The columns that say whether another attempt may take the place of this one."""

OPEN_TURN = ("id", "public_id", "owner", "lease_until")
"""The columns that say whether somebody will finish it."""

UNTIDY = """
INSERT INTO secret (name, value) VALUES ('untidy', randomblob(16))
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
"""Notes, in the same transaction, that what was deleted has left words in the index."""

SETTLED = (
    *("state", "reply", "sanitized", "finish_reason", "prompt_tokens", "completion_tokens"),
    *("cached_tokens", "tokens_estimated", "nanodollars", "turn_tokens"),
    *("error_code", "upstream_status"),
    *("upstream_request_id", "upstream_said", "attempts", "finished_at", "answer", "final"),
)
"""The columns that an outcome writes."""


class ExchangeQueries:
    """The hot queries, compiled once by peewee; they belong to no open file."""

    def __init__(self) -> None:
        row: Any = ExchangeRow
        refusal: Any = RefusalRow
        refusal_of_minute = [refusal.caller, refusal.rule, refusal.minute]
        of_user = (row.caller == hole("caller")) & (row.user_id == hole("user_id"))
        public_id = row.public_id == hole("public_id")
        has_key = (row.caller == hole("caller")) & (row.idempotency_key == hole("idempotency_key"))
        is_open = row.state == peewee.SQL("'open'")
        is_attempt = (
            public_id & (row.caller == hole("caller")) & (row.started_at == hole("started_at"))
        )
        is_turn = row.parameters_id.is_null()
        filled = [name for name in COLUMNS if name != "id"]
        self.whole = Compiled(row.select().where(public_id))
        self.whole_of_caller = Compiled(
            row.select().where(public_id & (row.caller == hole("caller")))
        )
        self.whole_of_key = Compiled(row.select().where(has_key))
        self.insert = Compiled(row.insert({getattr(row, name): hole(name) for name in filled}))
        self.history = Compiled(
            row.select(row.id, row.prompt, row.reply, row.turn_tokens)
            .where(of_user & (row.state == peewee.SQL("'completed'")) & is_turn)
            .order_by(row.id.desc())
            .limit(hole("turns"))
        )
        every = row.alias()
        last = every.select(peewee.fn.MAX(every.id))
        self.newest = Compiled(row.select(row.started_at, row.finished_at).where(row.id == last))
        self.owners = Compiled(row.select(row.owner).where(is_open).distinct())
        self.open_turn = Compiled(
            row.select(*(getattr(row, name) for name in OPEN_TURN)).where(
                of_user & is_open & is_turn
            )
        )
        self.checkpoint = Compiled(
            row.update({row.reply: hole("reply"), row.answer: hole("answer")}).where(
                is_attempt & is_open
            )
        )
        self.reserved = Compiled(
            row.select(
                row.reserved_in, row.prompt_tokens + row.completion_tokens, row.nanodollars
            ).where(is_attempt & is_open)
        )
        self.finish = Compiled(
            row.update({getattr(row, name): hole(name) for name in SETTLED}).where(
                is_attempt & is_open
            )
        )
        self.with_key = Compiled(
            row.select(*(getattr(row, name) for name in ATTEMPT)).where(has_key)
        )
        self.texts_of_user = Compiled(
            row.select(row.parameters_id, row.messages_id).where(of_user & ~is_turn).distinct()
        )
        self.erase = Compiled(row.delete().where(of_user))
        self.refuse = Compiled(
            refusal.insert(
                {
                    refusal.caller: hole("caller"),
                    refusal.rule: hole("rule"),
                    refusal.minute: hole("minute"),
                    refusal.count: peewee.SQL("1"),
                }
            ).on_conflict(
                conflict_target=refusal_of_minute,
                update={refusal.count: refusal.count + peewee.SQL("1")},
            )
        )


exchange_queries = cache(ExchangeQueries)
