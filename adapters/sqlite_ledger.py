"""What budgets hold and what was used, in SQLite: beside the exchange, in its transaction."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import peewee

from chatport.domain.model import Exchange, State
from chatport.domain.rules import Period
from chatport.domain.spending import OPEN, Account, Claim, Spend, accounts, refusal, spend_of

READ = """
SELECT caller, user_id, period, tokens, nanodollars, reserved_tokens, reserved_nanodollars,
       reserved_calls
FROM (VALUES {rows}) AS wanted CROSS JOIN spending
ON spending.caller = wanted.column1 AND spending.user_id = wanted.column2
   AND spending.period = wanted.column3
"""
RESERVE = """
UPDATE spending
SET reserved_tokens = reserved_tokens + ?1, reserved_nanodollars = reserved_nanodollars + ?2,
    reserved_calls = reserved_calls + 1
WHERE caller = ?3 AND user_id = ?4 AND period = ?5
  AND tokens + reserved_tokens + ?1 <= ?6 AND nanodollars + reserved_nanodollars + ?2 <= ?7
  AND reserved_calls < ?8
"""
SETTLE = """
UPDATE spending
SET tokens = tokens + ?1, nanodollars = nanodollars + ?2,
    reserved_tokens = reserved_tokens - ?3 * (period = ?8 OR period = ?9 OR period = ?10),
    reserved_nanodollars = reserved_nanodollars
        - ?4 * (period = ?8 OR period = ?9 OR period = ?10),
    reserved_calls = reserved_calls - (period = ?8 OR period = ?9 OR period = ?10)
WHERE caller = ?5 AND user_id = ?6 AND period IN (?7, ?11, 'open')
"""
USED_BEFORE = """
SELECT coalesce(sum(prompt_tokens + completion_tokens), 0), coalesce(sum(nanodollars), 0),
       coalesce(sum((prompt_tokens + completion_tokens) * (day = ?1)), 0),
       coalesce(sum(nanodollars * (day = ?1)), 0)
FROM usage WHERE day >= ?2 AND day < ?2 || '~'
"""
"""In a month and on a day of it, before there was a budget. A day's name begins as its month's."""

OF_OWNER = (" AND caller = ?3", " AND user_id = ?4")
OPEN_ACCOUNTS = "INSERT INTO spending VALUES {rows}"
USE = """
INSERT INTO usage (day, caller, user_id, model, calls, completed, prompt_tokens, cached_tokens,
                   completion_tokens, estimated, unpriced, nanodollars)
VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (caller, user_id, day, model) DO UPDATE SET
    calls = calls + 1, completed = completed + excluded.completed,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    estimated = estimated + excluded.estimated, unpriced = unpriced + excluded.unpriced,
    nanodollars = nanodollars + excluded.nanodollars
"""


Key = tuple[str, str, str]


class Reserved(NamedTuple):
    """What an open exchange holds: how much, and in which of its accounts."""

    spend: Spend
    accounts: int


class SqliteLedger:
    """Reserves, spends, and adds up. Every method runs inside a transaction of the database."""

    def __init__(self, database: peewee.Database) -> None:
        self._run = database.execute_sql

    def reserve(self, claim: Claim, exchange: Exchange) -> int:
        """Reserve what the exchange may cost under all ceilings; return in which accounts.

        Raises:
            Refused: A rule is in the way, or the claim's own. Nothing was written.
        """
        asked = spend_of(exchange)
        own = accounts(exchange.caller, exchange.user_id, exchange.started_at)
        wanted = [(own[ceiling.place], ceiling) for ceiling in claim.ceilings]
        there = self._read([account for account, _ in wanted])
        new = self._used_before([account for account, _ in wanted if account[:3] not in there], own)
        balances = [
            (ceiling, *(there.get(account[:3]) or (new[account[:3]], Spend())))
            for account, ceiling in wanted
        ]
        if error := refusal(balances, asked, exchange.started_at):
            raise error
        claim.admit(exchange)
        for account, ceiling in wanted:
            if account[:3] in there:
                done = self._run(RESERVE, [*asked[:2], *account[:3], *ceiling.most]).rowcount
                assert done == 1, "what has room, by the same numbers, is reserved"
        if new:
            opened = [(*key, *spent[:2], *asked[:2], 1) for key, spent in new.items()]
            self._run(_with_rows(OPEN_ACCOUNTS, len(opened), 8), list(chain(*opened)))
        return sum(account.bit for account, _ in wanted)

    def settle(self, exchange: Exchange, reserved: Reserved) -> None:
        """Spend what an ended exchange has cost, give the rest back, and add it to the usage."""
        self._use(exchange)
        tokens, nanodollars, _ = spend_of(exchange)
        if not reserved.accounts and not self._has_accounts():
            return
        own = accounts(exchange.caller, exchange.user_id, exchange.started_at)
        month, day = own[0].period, own[3].period
        for first in range(3):  # the user's three, the caller's, and those of all
            three = own[first::3]
            held = [each.period for each in three if reserved.accounts & each.bit]
            periods = [month, *(held + [""] * 3)[:3], day]
            self._run(SETTLE, [tokens, nanodollars, *reserved.spend[:2], *three[0][:2], *periods])

    def _read(self, wanted: Sequence[Account]) -> dict[Key, tuple[Spend, Spend]]:
        """Return what those of the accounts that there are have spent and reserved."""
        keys = [name for account in wanted for name in account[:3]]
        found = self._run(_with_rows(READ, len(wanted), 3), keys)
        return {row[:3]: (Spend(*row[3:5]), Spend(*row[5:])) for row in found}

    def _used_before(self, missing: Sequence[Account], own: Sequence[Account]) -> dict[Key, Spend]:
        """Return what new accounts begin with: what was used in their periods until now."""
        month, day = own[0].period, own[3].period
        used: dict[Key, Spend] = {}
        for caller, user_id in dict.fromkeys(account[:2] for account in missing):
            owner = [name for name in (caller, user_id) if name]
            query = USED_BEFORE + "".join(OF_OWNER[: len(owner)])
            found = self._run(query, [day, month, *owner]).fetchone()
            spent = {month: Spend(*found[:2]), day: Spend(*found[2:]), OPEN: Spend()}
            used |= {
                each[:3]: spent[each.period] for each in missing if each[:2] == (caller, user_id)
            }
        return used

    def _has_accounts(self) -> bool:
        return self._run("SELECT 1 FROM spending LIMIT 1").fetchone() is not None

    def _use(self, exchange: Exchange) -> None:
        usage = exchange.usage
        self._run(
            USE,
            [
                Period.DAY.of(exchange.started_at),
                exchange.caller,
                exchange.user_id,
                exchange.model,
                exchange.state is State.COMPLETED,
                usage.prompt_tokens if usage else 0,
                usage.cached_tokens if usage else 0,
                usage.completion_tokens if usage else 0,
                bool(usage and usage.estimated),
                usage is not None and exchange.nanodollars is None,
                exchange.nanodollars or 0,
            ],
        )


@lru_cache(maxsize=64)
def _with_rows(query: str, rows: int, columns: int) -> str:
    """Return the query with so many rows of places for values; there are at most nine."""
    row = f"({', '.join('?' * columns)})"
    return query.format(rows=", ".join([row] * rows))
