"""The texts of requests, each kept once, however often clients send it again.

A client resends the whole conversation with every turn. A message's text is kept once per
caller, found by its hash; a list of messages is kept as its last message and the list before
it. So a request costs what it adds to an earlier one: two messages a turn, not all of them. The
first message goes last: a system prompt that holds the time changes with every turn, and then no
list would begin as an earlier one.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import peewee

from chatport.domain.relay import RequestText

from .exchange_table import SQLITE, Compiled, ExchangeRow, hole


class MessageTextRow(peewee.Model):
    """A text: a message, or the parameters of a request."""

    id = peewee.AutoField()
    caller = peewee.TextField()
    digest = peewee.BlobField()
    text = peewee.TextField()

    class Meta:
        """One row per caller and text."""

        database = SQLITE
        table_name = "message_text"


class MessageChainRow(peewee.Model):
    """A list of messages: the last one, and the list before it."""

    id = peewee.AutoField()
    digest = peewee.BlobField(unique=True)
    previous = peewee.IntegerField(null=True, index=True)
    text_id = peewee.IntegerField(index=True)

    class Meta:
        """One row per list; its digest holds the caller too."""

        database = SQLITE
        table_name = "message_chain"


READ_MESSAGES = """
WITH RECURSIVE list (previous, text_id, place) AS (
    SELECT previous, text_id, 0 FROM message_chain WHERE id = ?
    UNION ALL
    SELECT chain.previous, chain.text_id, place + 1
    FROM message_chain AS chain JOIN list ON chain.id = list.previous
)
SELECT text FROM list JOIN message_text ON message_text.id = text_id ORDER BY place DESC
"""


class RequestTexts:
    """Keeps the texts of requests. Every method runs inside a transaction of the database."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._queries = _queries()

    def keep(self, caller: str, request: RequestText) -> tuple[int, int | None]:
        """Keep a request, and return the ids of its parameters and of its messages."""
        messages = [*request.messages[1:], *request.messages[:1]]
        return self._text(caller, request.parameters), self._chain(caller, messages)

    def read(self, parameters_id: int, messages_id: int | None) -> RequestText:
        """Return a request that was kept."""
        [(parameters,)] = self._database.execute_sql(
            "SELECT text FROM message_text WHERE id = ?", [parameters_id]
        )
        rows = self._database.execute_sql(READ_MESSAGES, [messages_id])
        messages = [text for (text,) in rows]
        return RequestText(parameters=parameters, messages=[*messages[-1:], *messages[:-1]])

    def drop(self, parameters_id: int, messages_id: int | None) -> None:
        """Delete a request's texts, as far as no exchange and no other list needs them."""
        self._run(self._queries.drop_text, id=parameters_id)
        while messages_id is not None:
            dropped = self._run(self._queries.drop_chain, id=messages_id).fetchone()
            if dropped is None:
                return
            messages_id, text_id = dropped
            self._run(self._queries.drop_text, id=text_id)

    def _chain(self, caller: str, messages: Sequence[str]) -> int | None:
        """Return the id of a list of messages; add what no earlier list began with."""
        digests = list(_digests(caller, messages))
        known = bisect_left(digests, True, key=lambda digest: self._list_id(digest) is None)
        last = self._list_id(digests[known - 1]) if known else None
        for message, digest in zip(messages[known:], digests[known:], strict=True):
            text_id = self._text(caller, message)
            added = self._run(
                self._queries.add_chain, digest=digest, previous=last, text_id=text_id
            )
            last = added.lastrowid
        return last

    def _list_id(self, digest: bytes) -> int | None:
        found = self._run(self._queries.find_chain, digest=digest).fetchone()
        return int(found[0]) if found else None

    def _text(self, caller: str, text: str) -> int:
        digest = hashlib.sha256(text.encode()).digest()
        found = self._run(self._queries.find_text, caller=caller, digest=digest).fetchone()
        if found is not None:
            return int(found[0])
        return int(
            self._run(self._queries.add_text, caller=caller, digest=digest, text=text).lastrowid
        )

    def _run(self, query: Compiled, **values: Any) -> Any:
        return self._database.execute_sql(query.sql, query.values(values))


class _Queries:
    """The queries, compiled once by peewee; they belong to no open file."""

    def __init__(self) -> None:
        text: Any = MessageTextRow
        chain: Any = MessageChainRow
        exchange: Any = ExchangeRow
        self.find_text = Compiled(
            text.select(text.id).where(
                (text.caller == hole("caller")) & (text.digest == hole("digest"))
            )
        )
        self.add_text = Compiled(
            text.insert({name: hole(name) for name in ("caller", "digest", "text")})
        )
        self.find_chain = Compiled(chain.select(chain.id).where(chain.digest == hole("digest")))
        self.add_chain = Compiled(
            chain.insert({name: hole(name) for name in ("digest", "previous", "text_id")})
        )
        longer = chain.alias()
        self.drop_chain = Compiled(
            chain.delete()
            .where(
                (chain.id == hole("id"))
                & ~peewee.fn.EXISTS(longer.select(longer.id).where(longer.previous == hole("id")))
                & ~peewee.fn.EXISTS(
                    exchange.select(exchange.id).where(exchange.messages_id == hole("id"))
                )
            )
            .returning(chain.previous, chain.text_id)
        )
        self.drop_text = Compiled(
            text.delete().where(
                (text.id == hole("id"))
                & ~peewee.fn.EXISTS(chain.select(chain.id).where(chain.text_id == hole("id")))
                & ~peewee.fn.EXISTS(
                    exchange.select(exchange.id).where(exchange.parameters_id == hole("id"))
                )
            )
        )


_queries = cache(_Queries)


def _digests(caller: str, messages: Sequence[str]) -> Iterator[bytes]:
    """Yield the digest of each beginning of the list, from the shortest to the whole."""
    digest = hashlib.sha256(caller.encode()).digest()
    for message in messages:
        digest = hashlib.sha256(digest + message.encode()).digest()
        yield digest
