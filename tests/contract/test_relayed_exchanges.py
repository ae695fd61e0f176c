"""The contract of ConversationStore for requests that are passed on as they are."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from chatport.domain import ConversationStore, Exchange, HistoryBounds, LogQuery, State, Usage
from chatport.domain.errors import ConversationBusy, ExchangeLost
from chatport.domain.relay import RequestText

Make = Callable[..., Exchange]
Open = Callable[[], ConversationStore]
BOUNDS = HistoryBounds()

HELLO = '{"role":"user","content":"Hello"}'
PARAMETERS = '{"model":"model-1","messages":[]}'
REQUEST = RequestText(messages=[HELLO], parameters=PARAMETERS)

MESSAGES = {
    "none": [],
    "one": [HELLO],
    "the same one twice": [HELLO, HELLO],
    "an empty one": [""],
    "in no order": ["b", "a", "c", "a", "b"],
    "like the parameters": [PARAMETERS, PARAMETERS],
    "sql": ["'; DROP TABLE message_text; --", '") OR 1=1 --', "?", ":caller", "%s", "NULL"],
    "json": [
        '{"content":"\\u0000 \\ud83d\\ude00 \\" \\\\ \\/"}',
        " {\t}\r\n",
        "汉字 é 👩‍👩‍👧 \u202e\ufeff",
    ],
    "huge": ["x" * 1_000_000, "é" * 100_000],
    "many": [f"message {n}" for n in range(2_000)],
}

ANSWERS = {
    "no piece": (),
    "an empty piece": (b"",),
    "empty pieces": (b"", b"", b"a", b""),
    "no text": (b"\x00", b"\xff\xfe\x80", b"\xed\xa0\x80", b"\x00\x00\x00\x05"),
    "like its own format": (b"\x00\x00\x00\x01a", b"\x78\x01", b"\n\n", b"data: [DONE]"),
    "every byte": (bytes(range(256)),),
    "a large piece": (b"x" * 1_000_000, b"y"),
    "many pieces": tuple(b'{"n":%d}' % n for n in range(10_000)),
}


def found(store: ConversationStore, exchange_id: str) -> Exchange:
    exchange = store.find(exchange_id)
    assert exchange is not None
    return exchange


def as_stored(exchange: Exchange, number: int) -> Exchange:
    return replace(exchange, number=number)


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
def test_a_request_is_found_text_by_text(
    store: ConversationStore, open_store: Open, make_exchange: Make, messages: list[str]
) -> None:
    exchange = make_exchange(request=RequestText(messages=messages, parameters=PARAMETERS))
    assert store.begin(exchange, BOUNDS).turns == ()
    request = found(open_store(), exchange.id).request
    assert request is not None
    assert list(request.messages) == messages
    assert request.parameters == PARAMETERS


@pytest.mark.parametrize("parameters", ["", "'; DROP TABLE secret; --", "é" * 100_000, HELLO])
def test_parameters_may_be_any_text(
    store: ConversationStore, make_exchange: Make, parameters: str
) -> None:
    exchange = make_exchange(request=RequestText(messages=[HELLO], parameters=parameters))
    store.begin(exchange, BOUNDS)
    request = found(store, exchange.id).request
    assert request is not None
    assert (list(request.messages), request.parameters) == ([HELLO], parameters)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_found_byte_for_byte(
    store: ConversationStore, make_exchange: Make, completed: Make, answer: tuple[bytes, ...]
) -> None:
    exchange = make_exchange(request=REQUEST)
    store.begin(exchange, BOUNDS)
    store.checkpoint(replace(exchange, reply="so far", answer=answer))
    assert tuple(found(store, exchange.id).answer) == answer
    store.finish(completed(exchange, answer=answer))
    assert tuple(found(store, exchange.id).answer) == answer


def test_every_field_of_a_relayed_outcome_is_kept(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange(
        request=REQUEST, prompt="", idempotency_key="key-1", request_hash="hash-1", attempts=3
    )
    store.begin(exchange, BOUNDS)
    assert found(store, exchange.id) == as_stored(exchange, 1)
    outcome = completed(
        exchange,
        "",
        state=State.FAILED,
        usage=Usage(prompt_tokens=7, completion_tokens=3, estimated=True),
        error_code="upstream_timeout",
        upstream_status=504,
        upstream_request_id="req_1",
        attempts=4,
        answer=(b"one", b"two"),
        final=True,
    )
    store.finish(outcome)
    assert found(store, exchange.id) == as_stored(outcome, 1)
    assert found(store, exchange.id).final is True


def test_an_outcome_replaces_what_was_written_down_on_its_way(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange(request=REQUEST)
    store.begin(exchange, BOUNDS)
    store.checkpoint(replace(exchange, reply="so", answer=(b"so",)))
    store.checkpoint(replace(exchange, reply="so far", answer=(b"so", b" far")))
    so_far = found(store, exchange.id)
    assert (so_far.state, so_far.reply, so_far.answer) == (State.OPEN, "so far", (b"so", b" far"))
    store.finish(completed(exchange, "refused", answer=(b"refused",)))
    store.checkpoint(replace(exchange, reply="late", answer=(b"late",)))
    ended = found(store, exchange.id)
    assert (ended.reply, ended.answer) == ("refused", (b"refused",))


def test_what_a_checkpoint_was_given_may_grow_afterwards(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange(request=REQUEST)
    store.begin(exchange, BOUNDS)
    pieces = [b"one"]
    store.checkpoint(replace(exchange, reply="one", answer=pieces))
    pieces.append(b"two")
    assert found(store, exchange.id).answer == (b"one",)
    store.finish(completed(exchange, answer=pieces))
    pieces.append(b"three")
    assert found(store, exchange.id).answer == (b"one", b"two")


def test_the_log_lists_a_relayed_exchange_without_its_request_and_answer(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange(request=REQUEST, prompt="where is the fox")
    store.begin(exchange, BOUNDS)
    outcome = completed(exchange, "in the den", answer=(b"whole",), final=True)
    store.finish(outcome)
    listed = replace(as_stored(outcome, 1), request=None, answer=())
    assert store.search(LogQuery()) == [listed]
    assert store.search(LogQuery(text="fox den")) == [listed]
    assert store.conversation("anonymous", "ada", before=None, limit=10) == [listed]
    assert found(store, exchange.id).request == REQUEST


def test_a_relayed_exchange_is_nobodys_history_and_gets_none(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    prompted, relayed = make_exchange(), make_exchange(request=REQUEST)
    store.begin(prompted, BOUNDS)
    store.finish(completed(prompted))
    history = store.begin(relayed, BOUNDS)
    assert (history.turns, history.bytes, history.context_from) == ((), 0, None)
    store.finish(completed(relayed))
    assert found(store, relayed.id).context_from is None
    history = store.begin(make_exchange(), BOUNDS)
    assert [turn.prompt for turn in history.turns] == ["prompt 0"]


def test_relayed_exchanges_lock_nobody_out(
    store: ConversationStore, open_store: Open, make_exchange: Make, completed: Make
) -> None:
    relayed = [make_exchange(request=REQUEST) for _ in range(5)]
    other = open_store()
    for exchange in relayed[:3]:
        store.begin(exchange, BOUNDS)
    turn = make_exchange()
    store.begin(turn, BOUNDS)
    for exchange in relayed[3:]:
        other.begin(exchange, BOUNDS)
    assert {exchange.state for exchange in store.search(LogQuery())} == {State.OPEN}
    with pytest.raises(ConversationBusy):
        other.begin(make_exchange(), BOUNDS)
    for exchange in [relayed[4], turn, *relayed[:4]]:
        store.finish(completed(exchange))
    assert [exchange.id for exchange in store.search(LogQuery(state=State.COMPLETED))] == [
        *("exchange-4", "exchange-3", "exchange-5", "exchange-2", "exchange-1", "exchange-0")
    ]


def test_an_abandoned_relayed_exchange_is_interrupted_with_what_had_arrived(
    store: ConversationStore, open_store: Open, make_exchange: Make, completed: Make
) -> None:
    exchange = make_exchange(request=REQUEST)
    store.begin(exchange, BOUNDS)
    store.checkpoint(replace(exchange, reply="half", answer=(b"half",)))
    assert open_store().recover(exchange.lease_until - timedelta(microseconds=1)) == 0
    assert open_store().recover(exchange.lease_until) == 1
    ended = found(store, exchange.id)
    assert (ended.state, ended.reply, ended.answer) == (State.INTERRUPTED, "half", (b"half",))
    assert (ended.final, ended.request) == (False, REQUEST)
    with pytest.raises(ExchangeLost):
        store.finish(completed(exchange))


def test_erasing_takes_relayed_exchanges_too_and_nobody_elses(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    mine = [make_exchange(request=REQUEST), make_exchange(), make_exchange(request=REQUEST)]
    theirs = [
        make_exchange(request=REQUEST, user_id="bob"),
        make_exchange(request=REQUEST, caller="other"),
    ]
    for exchange in [*mine, *theirs]:
        store.begin(exchange, BOUNDS)
    for exchange in [*mine[:2], *theirs]:
        store.finish(completed(exchange, answer=(b"whole",)))
    assert len(store.conversation("anonymous", "ada", before=None, limit=10)) == 3
    assert store.erase("anonymous", "ada") == 3
    assert [store.find(exchange.id) for exchange in mine] == [None, None, None]
    with pytest.raises(ExchangeLost):
        store.finish(completed(mine[2]))
    store.checkpoint(replace(mine[2], reply="late", answer=(b"late",)))
    assert store.find(mine[2].id) is None
    for exchange in theirs:
        kept = found(store, exchange.id)
        assert (kept.request, kept.answer) == (REQUEST, (b"whole",))


def test_a_conversation_that_is_sent_again_with_every_turn_reads_back_at_every_turn(
    store: ConversationStore, make_exchange: Make, completed: Make
) -> None:
    messages: list[str] = []
    sent: dict[str, list[str]] = {}
    for n in range(20):
        messages += [f"question {n % 3}", f"answer {n % 5}"]
        exchange = make_exchange(request=RequestText(messages=[*messages], parameters=PARAMETERS))
        sent[exchange.id] = [*messages]
        store.begin(exchange, BOUNDS)
        store.finish(completed(exchange))
    for exchange_id, expected in sent.items():
        request = found(store, exchange_id).request
        assert request is not None
        assert list(request.messages) == expected


def test_the_pseudonym_key_is_the_stores_own_and_stays(
    store: ConversationStore, open_store: Open, stranger: ConversationStore
) -> None:
    key = store.pseudonym_key()
    assert (type(key), len(key)) == (bytes, 32)
    assert store.pseudonym_key() == key
    assert open_store().pseudonym_key() == key
    assert stranger.pseudonym_key() != key
