"""Deleting old exchanges from SQLite, in transactions that are all small.

A transaction is bounded by what it costs, not by its rows: to take a long text out of the word
index costs 70 ns a byte, to overwrite and free a page 4 ns a byte. What is too large for one
transaction goes in several: first a text gets shorter, or a list of messages, then the row goes.
"""

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import peewee

from chatport.domain.retention import Purged, PurgeSpan

from .exchange_queries import UNTIDY
from .exchange_table import timestamp
from .request_texts import RequestTexts

Execute = Callable[..., Any]

CONTENT_PURGED = 0
"""The `parameters_id` of an exchange without its content: no turn of a conversation, no text."""

LOOK = 1_000
"""Rows to look at in one read: about 1 ms."""

WORDS = 65_536
"""Characters to take out of the word index in one transaction: about 5 ms."""

BYTES = 1_048_576
"""Bytes of answers and messages to overwrite in one transaction: about 4 ms with its commit."""

LINKS = 64
"""Messages to delete in one transaction: about 3 ms."""

SEPARATOR = re.compile(r"[\x00-/:-@\[-`{-\x7f]")
"""A character at which every tokenizer of FTS5 ends a word, so that a text may be cut after it."""

OWN_LINKS = """
WITH RECURSIVE own (id, previous, text_id, place) AS (
    SELECT link.id, link.previous, link.text_id, 1
    FROM message_chain AS link
    WHERE link.id = ?
      AND NOT EXISTS (SELECT 1 FROM message_chain AS other WHERE other.previous = link.id)
      AND NOT EXISTS (SELECT 1 FROM exchange WHERE messages_id = link.id AND exchange.id <> ?)
    UNION ALL
    SELECT link.id, link.previous, link.text_id, own.place + 1
    FROM own JOIN message_chain AS link ON link.id = own.previous
    WHERE own.place <= ?
      AND NOT EXISTS (SELECT 1 FROM message_chain AS other
                      WHERE other.previous = link.id AND other.id <> own.id)
      AND NOT EXISTS (SELECT 1 FROM exchange WHERE messages_id = link.id)
)
SELECT own.id, CASE
    WHEN EXISTS (SELECT 1 FROM message_chain AS other
                 WHERE other.text_id = own.text_id AND other.id <> own.id) THEN 0
    ELSE (SELECT length(text) FROM message_text WHERE message_text.id = own.text_id)
END
FROM own ORDER BY place
"""
"""The last messages of a list that nothing else needs, and how long each is."""

OWN_PARAMETERS = """
SELECT length(text) FROM message_text AS mine
WHERE id = ?
  AND NOT EXISTS (SELECT 1 FROM exchange WHERE parameters_id = mine.id AND exchange.id <> ?)
  AND NOT EXISTS (SELECT 1 FROM message_chain WHERE text_id = mine.id)
"""
LAST_BEFORE = """
SELECT max(CASE WHEN started_at < ? THEN id END), min(id)
FROM (SELECT id, started_at FROM exchange WHERE id <= ? ORDER BY id DESC LIMIT ?)
"""
FIND = """
SELECT id, {wanted} FROM exchange WHERE {owner} AND id > ? AND id <= ? ORDER BY id LIMIT ?
"""
OF_ALL, OF_USER = "TRUE", "caller = ? AND user_id = ?"
"""Of one user they are found by an index."""

MEASURE = """
SELECT length(prompt) + length(reply), coalesce(length(answer), 0), parameters_id, messages_id
FROM exchange WHERE id = ? AND {wanted}
"""
SHORTEN = "UPDATE exchange SET messages_id = ? WHERE id = ?"
PARK = f"""
UPDATE exchange SET parameters_id = {CONTENT_PURGED}, messages_id = NULL, answer = NULL
WHERE id = ?
"""  # noqa: S608  # a number of this module
DELETE = "DELETE FROM exchange WHERE id IN ({holes})"
EMPTY = f"""
UPDATE exchange
SET prompt = '', reply = '', answer = NULL, idempotency_key = NULL, request_hash = NULL,
    upstream_said = NULL, parameters_id = {CONTENT_PURGED}, messages_id = NULL
WHERE id IN ({{holes}})
"""  # noqa: S608  # a number of this module
TEXTS = "SELECT prompt, reply FROM exchange WHERE id = ?"
FORGET_WORDS = """
INSERT INTO exchange_text (exchange_text, rowid, prompt, reply) VALUES ('delete', ?, ?, ?)
"""
KEEP_PLACE = "INSERT INTO exchange_text (rowid, prompt, reply) VALUES (?, '', '')"
CONFIGURE = "INSERT INTO exchange_text (exchange_text, rank) VALUES (?, ?)"
MERGING = {"automerge": 4, "crisismerge": 16}
NOT_MERGING = {"automerge": 0, "crisismerge": 1_999}
"""FTS5's own values, and those with which a transaction leaves merging to another; see
www.sqlite.org/fts5.html, 6.1 and 6.3. Unasked, it would merge thousands of pages at a time."""


class Weight(NamedTuple):
    """What it costs to delete an exchange, and its request.

    Attributes:
        words: Characters in the word index.
        size: Bytes of its answer, and of the texts that nothing else needs.
        links: The ids of the last messages of its list that nothing else needs.
    """

    words: int
    size: int
    links: Sequence[int]
    parameters_id: int | None
    messages_id: int | None

    @property
    def share(self) -> float:
        """Return which part of a transaction this takes."""
        return self.words / WORDS + self.size / BYTES + len(self.links) / LINKS


class Found(NamedTuple):
    """The numbers of what is to be purged, and the last number that was looked at."""

    numbers: list[int]
    until: int


class SqlitePurge:
    """Finds on the reader what is to go, and deletes it in transactions of the writer."""

    def __init__(self, writer: peewee.SqliteDatabase, reader: peewee.Database) -> None:
        self._connection: Execute = writer.connection
        self._run: Execute = writer.execute_sql
        self._look: Execute = reader.execute_sql
        self._texts = RequestTexts(writer)

    # What reads

    def last_before(self, at: datetime, top: int) -> tuple[int, int]:
        """Look at some exchanges from number `top` down.

        Returns:
            The highest number of those that started before then, or 0; and the number to go on
            from, or 0.
        """
        found, lowest = self._look(LAST_BEFORE, [timestamp(at), top, LOOK]).fetchone()
        return found or 0, (lowest or 1) - 1

    def find(self, span: PurgeSpan, limit: int) -> Found:
        """Look at some exchanges from the beginning of the span, for up to `limit` to purge."""
        wanted, values = _wanted(span)
        owner = [] if span.user_id is None else [span.caller, span.user_id]
        query = FIND.format(wanted=wanted, owner=OF_USER if owner else OF_ALL)
        within = [*values, *owner, span.after, span.until, LOOK]
        rows = self._look(query, within).fetchall()
        numbers = [number for number, is_wanted in rows if is_wanted]
        if len(numbers) > limit:
            return Found(numbers[:limit], numbers[limit] - 1)
        return Found(numbers, rows[-1][0] if len(rows) == LOOK else span.until)

    # What writes; each runs inside a transaction of the writer.

    def take(self, span: PurgeSpan, found: Found) -> Purged:
        """Purge what was found, as far as one transaction goes."""
        self._run(UNTIDY)
        self._configure(NOT_MERGING)
        done = self._take(span, found)
        self._configure(MERGING)
        return done

    def _configure(self, options: Mapping[str, int]) -> None:
        for option in options.items():
            self._run(CONFIGURE, option)

    def _take(self, span: PurgeSpan, found: Found) -> Purged:
        taken: list[int] = []
        share, until = 0.0, found.until
        for number in found.numbers:
            weight = self._weigh(span, number)
            if weight is None:
                continue  # another process was faster
            share += weight.share
            if share > 1.0 and (taken or self._lighten(number, weight)):
                until = number - 1
                break
            if weight.parameters_id:
                self._run(PARK, [number])
                self._texts.drop(weight.parameters_id, weight.messages_id)
            taken.append(number)
        # In one statement: each writes its words into the index by itself.
        statement = EMPTY if span.content_only else DELETE
        self._run(statement.format(holes=", ".join("?" * len(taken))), taken)
        return Purged(count=len(taken), until=until)

    def _weigh(self, span: PurgeSpan, number: int) -> Weight | None:
        """Return what it costs to delete an exchange that is still wanted."""
        wanted, values = _wanted(span)
        row = self._run(MEASURE.format(wanted=wanted), [number, *values]).fetchone()
        if row is None:
            return None
        words, size, parameters_id, messages_id = row
        links = self._run(OWN_LINKS, [messages_id, number, LINKS]).fetchall()
        for (length,) in self._run(OWN_PARAMETERS, [parameters_id, number]):
            size += length
        return Weight(
            words=words,
            size=size + sum(length for _, length in links),
            links=[link for link, _ in links],
            parameters_id=parameters_id,
            messages_id=messages_id,
        )

    def _lighten(self, number: int, weight: Weight) -> bool:
        """Delete a part of what is too heavy; return False if it must go as one piece."""
        if weight.words > WORDS and self._blank(number):
            return True
        if len(weight.links) > LINKS:
            self._run(SHORTEN, [weight.links[-1], number])
            self._texts.drop(CONTENT_PURGED, weight.messages_id)
            return True
        return False

    def _blank(self, number: int) -> bool:
        """Overwrite the last words of an exchange with spaces, here and in the word index.

        Written in place, since the row is not to be moved for every piece; that fires no
        trigger, and spaces cost the index nothing.

        Returns:
            False if few words are left.
        """
        texts = [text.rstrip() for text in self._run(TEXTS, [number]).fetchone()]
        column = max((0, 1), key=lambda place: len(texts[place]))
        if sum(map(len, texts)) <= WORDS:
            return False
        text = texts[column]
        at = _last_piece(text)
        forgotten = [text[at:] if place == column else "" for place in (0, 1)]
        self._run(FORGET_WORDS, [number, *forgotten])
        self._run(KEEP_PLACE, [number])
        name = ("prompt", "reply")[column]
        connection: sqlite3.Connection = self._connection()
        with connection.blobopen("exchange", name, number) as stored:
            stored.seek(len(text[:at].encode()))
            stored.write(b" " * len(text[at:].encode()))
        return True


def _wanted(span: PurgeSpan) -> tuple[str, list[Any]]:
    """Return the condition on what a span means, but for its numbers, and its values."""
    conditions = ["state <> 'open'"]
    values: list[Any] = []
    if span.before is not None:
        conditions.append("started_at < ?")
        values.append(timestamp(span.before))
    if span.caller is not None:
        conditions.append("caller = ?")
        values.append(span.caller)
    if span.user_id is not None:
        conditions.append("user_id = ?")
        values.append(span.user_id)
    if span.content_only:
        conditions.append(f"parameters_id IS NOT {CONTENT_PURGED}")
    return " AND ".join(conditions), values


def _last_piece(text: str) -> int:
    """Return where the last WORDS characters of a text begin, without a cut through a word."""
    if len(text) <= WORDS:
        return 0
    start = len(text) - WORDS
    found = SEPARATOR.search(text, start)
    if found and found.end() < len(text):
        return found.end()
    return max((each.end() for each in SEPARATOR.finditer(text, 0, start)), default=0)
