"""The contract of ConversationStore, for every adapter."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from chatport.domain import (
    ConversationStore,
    Exchange,
    HistoryBounds,
    LogQuery,
    PastTurn,
    State,
    Usage,
)
from chatport.domain.errors import ConversationBusy, ExchangeLost

Make = Callable[..., Exchange]
Open = Callable[[], ConversationStore]
BOUNDS = HistoryBounds()

HARD_TEXTS = [
    "plain",
    "tabs\tand\nnew\r\nlines",
    "'; DROP TABLE exchange; --",
    'quotes " and \\ and % and _',
    "ünïcödé, 汉字, العربية",
    "emoji 👩‍👩‍👧 and combining é",
    "\u202ereversed\u2028separators\ufeff",
    "x" * 100_000,
]


def test_an_open_exchange_is_found_by_another_store_at_once(
    store: ConversationStore, open_store: Open, make_exchange: Make
) -> None:
    store.begin(make_exchange(), BOUNDS)
    found = open_store().find("exchange-0")
    assert found == make_exchange_as_stored(make_exchange, number=1)


def make_exchange_as_stored(make: Make, number: int) -> Exchange:
    later = make()
    return replace(
        later,
        id="exchange-0",
        prompt="prompt 0",
        number=number,
        started_at=later.started_at - timedelta(seconds=1),
        lease_until=later.lease_until - timedelta(seconds=1),
    )


def test_every_field_of_an_outcome_is_kept(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS)
    outcome = completed(
        exchange,
        "what the model said",
        state=State.FAILED,
        sanitized=True,
        finish_reason="length",
        usage=Usage(prompt_tokens=7, completion_tokens=3, estimated=True),
        turn_tokens=4,
        error_code="upstream_error",
        upstream_status=500,
        upstream_request_id="req_1",
        attempts=2,
    )
    store.finish(outcome)
    assert store.find("exchange-0") == replace(outcome, number=1)


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_hard_text_comes_back_as_it_was(
    store: ConversationStore, make_exchange: Make, completed: Make, text: str
) -> None:
    exchange = make_exchange(prompt=text)
    store.begin(exchange, BOUNDS)
    store.finish(completed(exchange, text))
    found = store.find(exchange.id)
    assert found is not None
    assert (found.prompt, found.reply) == (text, text)


def test_an_empty_store_has_nothing(store: ConversationStore) -> None:
    assert store.find("exchange-0") is None
    assert store.search(LogQuery()) == []
    assert store.conversation("anonymous", "ada", before=None, limit=10) == []
    assert store.erase("anonymous", "ada") == 0


def test_history_is_of_completed_exchanges_only_oldest_first(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    for outcome in [State.COMPLETED, State.FAILED, State.CANCELLED, State.COMPLETED]:
        exchange = make_exchange()
        store.begin(exchange, BOUNDS)
        store.finish(completed(exchange, f"reply to {exchange.prompt}", state=outcome))
    history = store.begin(make_exchange(), BOUNDS)
    assert list(history.turns) == [
        PastTurn(1, "prompt 0", "reply to prompt 0", 8),
        PastTurn(4, "prompt 3", "reply to prompt 3", 8),
    ]
    assert history.context_from == 1
    found = store.find("exchange-4")
    assert found is not None
    assert found.context_from == 1


@pytest.mark.parametrize(
    ("bounds", "oldest"),
    [
        (HistoryBounds(turns=2), "prompt 8"),
        (HistoryBounds(tokens=24), "prompt 7"),
        (HistoryBounds(bytes=13 * 4 + 12), "prompt 6"),
        (HistoryBounds(turns=0), None),
    ],
)
def test_history_is_bounded_by_turns_tokens_and_bytes(
    store: ConversationStore,
    make_exchange: Make,
    completed: Make,
    bounds: HistoryBounds,
    oldest: str | None,
) -> None:
    for _ in range(10):
        exchange = make_exchange()
        store.begin(exchange, BOUNDS)
        store.finish(completed(exchange))
    history = store.begin(make_exchange(), bounds)
    assert (history.turns[0].prompt if history.turns else None) == oldest
    assert history.bytes == 13 * len(history.turns)


def test_a_second_open_turn_is_refused_and_nothing_is_written(
    store: ConversationStore, open_store: Open, make_exchange: Make
) -> None:
    store.begin(make_exchange(), BOUNDS)
    with pytest.raises(ConversationBusy) as busy:
        open_store().begin(make_exchange(), BOUNDS)
    assert busy.value.retry_after_seconds == 1.0
    assert [exchange.id for exchange in store.search(LogQuery())] == ["exchange-0"]


def test_other_users_and_other_callers_have_other_conversations(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    for fields in [{}, {"user_id": "bob"}, {"caller": "other"}, {"user_id": "ADA"}]:
        exchange = make_exchange(**fields)
        assert store.begin(exchange, BOUNDS).turns == []
        store.finish(completed(exchange))
    mine = store.conversation("anonymous", "ada", before=None, limit=10)
    assert [exchange.id for exchange in mine] == ["exchange-0"]
    assert store.erase("anonymous", "ada") == 1
    assert len(store.search(LogQuery())) == 3


def test_an_exchange_is_found_for_its_own_caller_only(
    store: ConversationStore, make_exchange: Make
) -> None:
    mine = make_exchange(caller="shop")
    store.begin(mine, BOUNDS)
    found = [store.find(mine.id, caller) for caller in ("shop", "bank", None)]
    assert [each is not None for each in found] == [True, False, True]
    assert store.find("x' OR '1' = '1") is None


def test_an_open_turn_whose_lease_ran_out_makes_room_and_is_interrupted(
    store: ConversationStore, open_store: Open, make_exchange: Make, completed: Make
) -> None:
    first = make_exchange()
    first = replace(first, lease_until=first.started_at + timedelta(seconds=1))
    store.begin(first, BOUNDS)
    second = make_exchange()
    assert open_store().begin(second, BOUNDS).turns == []
    found = store.find(first.id)
    assert found is not None
    assert (found.state, found.error_code) == (State.INTERRUPTED, "interrupted")
    assert found.finished_at == second.started_at
    with pytest.raises(ExchangeLost):
        store.finish(completed(first))
    store.finish(completed(second))


def test_an_exchange_ends_once(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS)
    store.finish(completed(exchange, "first"))
    with pytest.raises(ExchangeLost):
        store.finish(completed(exchange, "second"))
    found = store.find(exchange.id)
    assert found is not None
    assert found.reply == "first"


def test_a_checkpoint_is_kept_while_the_exchange_is_open_and_not_after(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange()
    store.begin(exchange, BOUNDS)
    store.checkpoint(replace(exchange, reply="so far"))
    found = store.find(exchange.id)
    assert found is not None
    assert (found.state, found.reply) == (State.OPEN, "so far")
    store.finish(completed(exchange, "all"))
    store.checkpoint(replace(exchange, reply="late"))
    found = store.find(exchange.id)
    assert found is not None
    assert found.reply == "all"


def test_a_conversation_is_paged_newest_last(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    for _ in range(5):
        exchange = make_exchange()
        store.begin(exchange, BOUNDS)
        store.finish(completed(exchange))
    newest = store.conversation("anonymous", "ada", before=None, limit=2)
    assert [exchange.number for exchange in newest] == [4, 5]
    older = store.conversation("anonymous", "ada", before=4, limit=2)
    assert [exchange.number for exchange in older] == [2, 3]


def test_the_log_is_searched_by_every_condition(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    words = [("ada", "the red fox", "hello"), ("bob", "the blue fox", "hello red")]
    for user, prompt, reply in [*words, ("bob", "nothing", "more")]:
        exchange = make_exchange(user_id=user, prompt=prompt)
        store.begin(exchange, BOUNDS)
        state = State.FAILED if prompt == "nothing" else State.COMPLETED
        store.finish(completed(exchange, reply, state=state))

    def numbers(query: LogQuery) -> list[int]:
        return [exchange.number for exchange in store.search(query)]

    assert numbers(LogQuery()) == [3, 2, 1]
    assert numbers(LogQuery(limit=1)) == [3]
    assert numbers(LogQuery(text="fox")) == [2, 1]
    assert numbers(LogQuery(text="red fox")) == [2, 1]
    assert numbers(LogQuery(text="blue")) == [2]
    assert numbers(LogQuery(text="fox", user_id="ada")) == [1]
    assert numbers(LogQuery(text="absent")) == []
    assert numbers(LogQuery(user_id="bob")) == [3, 2]
    assert numbers(LogQuery(caller="nobody")) == []
    assert numbers(LogQuery(state=State.FAILED)) == [3]
    assert numbers(LogQuery(before=3)) == [2, 1]
    assert numbers(LogQuery(after=1)) == [3, 2]
    assert numbers(LogQuery(after=1, oldest_first=True, limit=1)) == [2]
    since = make_exchange().started_at - timedelta(seconds=1)
    assert numbers(LogQuery(since=since)) == [3]


def test_erasing_takes_the_whole_conversation_also_an_open_turn(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    first = make_exchange()
    store.begin(first, BOUNDS)
    store.finish(completed(first))
    second = make_exchange()
    store.begin(second, BOUNDS)
    assert store.erase("anonymous", "ada") == 2
    with pytest.raises(ExchangeLost):
        store.finish(completed(second))
    assert store.search(LogQuery()) == []
    assert store.begin(make_exchange(), BOUNDS).turns == []


def test_recovering_interrupts_only_what_nobody_will_finish(
    store: ConversationStore, open_store: Open, make_exchange: Make
) -> None:
    alive = make_exchange(user_id="alive")
    expired = make_exchange(user_id="expired")
    expired = replace(expired, lease_until=expired.started_at)
    store.begin(alive, BOUNDS)
    store.begin(expired, BOUNDS)
    now = expired.started_at + timedelta(seconds=1)
    assert open_store().recover(now) == 1
    assert open_store().recover(now) == 0
    states = {exchange.user_id: exchange.state for exchange in store.search(LogQuery())}
    assert states == {"alive": State.OPEN, "expired": State.INTERRUPTED}


def test_of_many_threads_one_opens_the_turn(
    store: ConversationStore, open_store: Open, make_exchange: Make
) -> None:
    stores = [store, open_store()]
    exchanges = [make_exchange() for _ in range(32)]
    outcomes: list[str] = []
    start = threading.Barrier(len(exchanges))

    def attempt(n: int) -> None:
        start.wait()
        try:
            stores[n % 2].begin(exchanges[n], BOUNDS)
            outcomes.append("open")
        except ConversationBusy:
            outcomes.append("busy")

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(len(exchanges))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy"] * 31 + ["open"]


def test_a_store_that_works_passes_its_check_and_closes_twice(store: ConversationStore) -> None:
    store.check()
    store.close()
    store.close()
    store.check()


def test_refusals_are_counted_without_becoming_exchanges(
    store: ConversationStore, make_exchange: Make
) -> None:
    at = make_exchange().started_at
    store.count_refusal("anonymous", "user", at)
    store.count_refusal("anonymous", "user", at)
    assert store.search(LogQuery()) == []
