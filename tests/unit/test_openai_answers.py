"""The counts of tokens, as a provider may or may not say them."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatport.adapters import said_sizes
from chatport.adapters.openai_answers import StreamedAnswer, completion
from chatport.domain.errors import UpstreamInvalidResponse, UpstreamTruncated
from chatport.domain.model import Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    max_leaves=5,
)


def told(usage: dict[str, Any], *, relayed: bool = False) -> Usage | None:
    """Return what is read from an answer with this usage, streamed or not; it is the same."""
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    plain = completion(
        json.dumps({"choices": [choice], "usage": usage}).encode(), None, relayed=relayed
    )
    chunk = json.dumps({"choices": [], "usage": usage}).encode()
    [delta] = StreamedAnswer(relayed=relayed).read([chunk])
    assert plain.usage == delta.usage
    return plain.usage


def counted(details: Any) -> dict[str, Any]:
    return {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": details}


@pytest.mark.parametrize("relayed", [True, False])
@pytest.mark.parametrize("cached", [0, 1, 99, 100])
def test_the_cached_tokens_of_the_prompt_are_read(cached: int, relayed: bool) -> None:
    usage = counted({"cached_tokens": cached, "audio_tokens": 0})
    expected = Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=cached)
    assert told(usage, relayed=relayed) == expected


@pytest.mark.parametrize(
    "details",
    [
        *(None, {}, [], "sixty-four", 64, True, {"cached_tokens": None}, {"cached_tokens": "64"}),
        *({"cached_tokens": 64.0}, {"cached_tokens": True}, {"cached_tokens": -1}),
        *({"cached_tokens": 101}, {"cached_tokens": 2**70}, {"cached_tokens": {"x": 1}}),
    ],
)
def test_what_is_not_clearly_a_count_is_none(details: Any) -> None:
    assert told(counted(details)) == Usage(prompt_tokens=100, completion_tokens=7)


def test_a_provider_need_not_say_it() -> None:
    usage = told({"prompt_tokens": 100, "completion_tokens": 7})
    assert usage == Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=0)


@given(JSON | st.fixed_dictionaries({"cached_tokens": JSON}))
def test_no_details_break_an_answer(details: Any) -> None:
    usage = told(counted(details))
    assert usage is not None
    assert 0 <= usage.cached_tokens <= 100


@pytest.mark.parametrize("relayed", [True, False])
def test_no_tokens_for_many_words_are_not_believed(relayed: bool) -> None:
    nothing = {"prompt_tokens": 0, "completion_tokens": 0}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"content": "Hello"}}
    whole = completion(
        json.dumps({"choices": [choice], "usage": nothing}).encode(), None, relayed=relayed
    )
    assert (whole.usage, whole.said_bytes) == (Usage(prompt_tokens=0, completion_tokens=0), 5)
    choice["delta"] = choice.pop("message")
    answer = StreamedAnswer(relayed=relayed)
    [said] = answer.read([json.dumps({"choices": [choice]}).encode()])
    [counted] = answer.read([json.dumps({"choices": [], "usage": nothing}).encode()])
    assert counted.said_bytes_after(said.said_bytes) == 5


def test_a_stream_that_ends_with_zeros_keeps_its_earlier_counts() -> None:
    answer = StreamedAnswer(relayed=False)
    said = {"choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": counted(None)}
    zeros = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    [delta] = answer.read([json.dumps(said).encode(), json.dumps(zeros).encode()])
    assert delta.usage == Usage(prompt_tokens=100, completion_tokens=7)


@pytest.mark.parametrize(
    ("first", "last", "prompt_tokens", "completion_tokens"),
    [
        ((5000, 1), (0, 100), 5000, 100),
        ((5000, 1), (5000, 100), 5000, 100),
        ((0, 0), (5000, 0), 5000, 0),
        ((7, 0), (5000, 0), 5000, 0),
        ((0, 50), (5000, 0), 5000, 50),
        ((5000, 50), (0, 0), 5000, 50),
    ],
)
def test_of_the_counts_of_a_stream_each_stays_until_it_comes_again(
    first: tuple[int, int], last: tuple[int, int], prompt_tokens: int, completion_tokens: int
) -> None:
    answer = StreamedAnswer(relayed=False)
    usage: Usage | None = None
    for asked, answered in (first, last):
        counts = {"prompt_tokens": asked, "completion_tokens": answered}
        [delta] = answer.read([json.dumps({"choices": [], "usage": counts}).encode()])
        usage = delta.usage or usage
    expected = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    assert usage == expected


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("head", [(5000, 1), (0, 1)])
@pytest.mark.parametrize(("prompt", "cached"), [(5000, 3000), (5002, 0)])
def test_a_prompt_that_is_counted_anew_counts_no_words(
    head: tuple[int, int], prompt: int, cached: int, at_once: bool
) -> None:
    answer = StreamedAnswer(relayed=False)
    begin = dict(zip(("prompt_tokens", "completion_tokens"), head, strict=True))
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    end = {"prompt_tokens": prompt, "completion_tokens": 0, **details}
    said = {"choices": [{"index": 0, "delta": {"content": "word " * 1000}}]}
    chunks = [{"choices": [], "usage": begin}, said, {"choices": [], "usage": end}]
    events = [json.dumps(chunk).encode() for chunk in chunks]
    usage, said_bytes = None, 0
    for batch in [events] if at_once else [[event] for event in events]:
        for delta in answer.read(batch):
            usage = delta.usage or usage
            said_bytes = delta.said_bytes_after(said_bytes)
    assert usage == Usage(prompt_tokens=prompt, completion_tokens=1, cached_tokens=cached)
    assert said_bytes == 5000


def counts(answered: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": answered}}


def of_choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


SAID, STOPPED = of_choice({"content": "Hi"}), of_choice({}, "stop")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("chunks", "is_head"),
    [
        ([counts(1)], True),
        ([counts(900)], True),
        ([{**of_choice({"role": "assistant"}), **counts(8)}], True),
        ([counts(8), counts(8)], True),
        ([counts(8), counts(2)], True),
        ([counts(8), STOPPED], True),
        ([counts(8), counts(9)], False),
        ([counts(0), counts(1)], False),
        ([SAID, counts(1)], False),
        ([STOPPED, counts(1)], False),
        ([{**counts(1), **STOPPED}], False),
        ([{**counts(1), **SAID}], False),
        ([counts(8), STOPPED, counts(7)], False),
    ],
)
def test_a_count_before_the_first_word_is_a_heads_unless_it_rises(
    chunks: list[dict[str, Any]], is_head: bool, at_once: bool
) -> None:
    answer = StreamedAnswer(relayed=True)
    events = [json.dumps(chunk).encode() for chunk in chunks]
    found = None
    for batch in [events] if at_once else [[event] for event in events]:
        for delta in answer.read(batch):
            found = delta.is_head if delta.usage else found
    assert found is is_head


@pytest.mark.parametrize("count", [10**8, 2**31 - 1, 10**400])
def test_more_tokens_than_any_model_reads_or_writes_are_no_count(count: int) -> None:
    assert told({"prompt_tokens": 9, "completion_tokens": count}) is None
    assert told({"prompt_tokens": count, "completion_tokens": 9}) is None
    expected = Usage(prompt_tokens=9, completion_tokens=9)
    assert told({"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": count}) == expected


@pytest.mark.parametrize(("members", "is_one"), [(1_000, True), (1_001, False)])
def test_what_has_thousands_of_members_is_no_chunk(members: int, is_one: bool) -> None:
    chunk = {"choices": [], **{f"x{n}": n for n in range(members - 1)}}
    answer = StreamedAnswer(relayed=True).read([json.dumps(chunk).encode()])
    if is_one:
        assert len(list(answer)) == 1
    else:
        with pytest.raises(UpstreamInvalidResponse):
            list(answer)


@pytest.mark.parametrize(("count", "is_one"), [(1_000, True), (1_001, False)])
def test_what_has_thousands_of_choices_is_no_chunk(count: int, is_one: bool) -> None:
    answer = StreamedAnswer(relayed=True).read([json.dumps({"choices": [{}] * count}).encode()])
    if is_one:
        assert len(list(answer)) == 1
    else:
        with pytest.raises(UpstreamInvalidResponse):
            list(answer)


@pytest.mark.parametrize(
    "parts",
    [[{"a": 1}], [[[1]]], [0.5], ["a"], [{"arguments": 1}]],
    ids=["objects", "arrays", "numbers", "texts", "arguments"],
)
def test_what_has_too_many_parts_to_be_measured_counts_as_its_text(
    parts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(said_sizes, "MOST_PARTS", 1_000)
    spied = []
    real = said_sizes._size

    def size(*arguments: Any) -> int:
        spied.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(said_sizes, "_size", size)
    message = {"content": "Hi", "x": parts * 100_000}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice]}).encode()
    assert completion(body, None, relayed=False).said_bytes == len(body)
    assert len(spied) == 1_001
    choice["delta"] = choice.pop("message")
    chunk = json.dumps({"choices": [choice]}).encode()
    [delta] = StreamedAnswer(relayed=False).read([chunk])
    assert delta.said_bytes == len(chunk)


def test_choices_that_say_nothing_are_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said_sizes, "MOST_PARTS", 1_000)
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    for count, said_bytes in ((300, 2), (400, None)):
        body = json.dumps({"choices": [choice, *[{}] * count]}).encode()
        expected = len(body) if said_bytes is None else said_bytes
        assert completion(body, None, relayed=False).said_bytes == expected


def test_indexes_that_collide_are_not_compared_with_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []

    class Index(int):
        def __hash__(self) -> int:
            return 0

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return int(self) == other

    monkeypatch.setattr(json, "loads", partial(json.loads, parse_int=Index))
    choices = [{"index": n, "delta": {"content": "Hi"}} for n in range(200)]
    answer = StreamedAnswer(relayed=True)
    assert len(list(answer.read([json.dumps({"choices": choices}).encode()]))) == 1
    assert compared == []
    with pytest.raises(UpstreamTruncated):
        answer.end()


@pytest.mark.parametrize(
    "index", [{"index": 0}, {"index": None}, {"index": 0.0}, {"index": [1e9] * 9}, {}]
)
def test_a_choice_without_a_number_is_the_first(index: dict[str, Any]) -> None:
    answer = StreamedAnswer(relayed=False)
    told = ""
    for choice in ({"delta": {"content": "Hi"}}, {**index, "finish_reason": "stop"}):
        [delta] = answer.read([json.dumps({"choices": [choice]}).encode()])
        told += delta.text
    answer.end()
    assert (told, delta.finish_reason) == ("Hi", "stop")


def test_what_was_cached_of_a_prompt_need_not_be_said_again() -> None:
    usages = counted({"cached_tokens": 60}), {**counted(None), "completion_tokens": 8}
    usage, _ = settled([{"choices": [], "usage": usage} for usage in usages], at_once=False)
    assert usage == Usage(prompt_tokens=100, completion_tokens=8, cached_tokens=60)


def settled(chunks: list[dict[str, Any]], *, at_once: bool) -> tuple[Usage | None, int]:
    """Return what is counted of a stream, and how many bytes are not."""
    answer = StreamedAnswer(relayed=False)
    events = [json.dumps(chunk).encode() for chunk in chunks]
    usage, said_bytes = None, 0
    for batch in [events] if at_once else [[event] for event in events]:
        for delta in answer.read(batch):
            usage = delta.usage or usage
            said_bytes = delta.said_bytes_after(said_bytes)
    return usage, said_bytes


STALE = {**counts(1), **of_choice({"content": "x" * 400})}
ZEROS = {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
CACHED = {"prompt_tokens_details": {"cached_tokens": 4}, "prompt_tokens": 9, "completion_tokens": 1}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "end",
    [
        *([], [ZEROS], [STOPPED], [{**counts(1), **STOPPED}], [counts(1)]),
        [{"choices": [], "usage": CACHED}],
    ],
)
def test_counts_that_only_come_again_count_no_words(
    end: list[dict[str, Any]], at_once: bool
) -> None:
    usage, said_bytes = settled([counts(1), *[STALE] * 10, *end], at_once=at_once)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, said_bytes) == (9, 1, 4_000)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "end",
    [
        *([], [ZEROS], [STOPPED], [{**counts(11), **STOPPED}], [counts(11)]),
        [{"choices": [], "usage": {**CACHED, "completion_tokens": 11}}],
    ],
)
def test_counts_that_rise_with_the_words_count_all_of_them(
    end: list[dict[str, Any]], at_once: bool
) -> None:
    rising = [{**STALE, "usage": counts(n)["usage"]} for n in range(2, 12)]
    usage, said_bytes = settled([counts(1), *rising, *end], at_once=at_once)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, said_bytes) == (9, 11, 0)


def test_words_beside_stale_counts_are_counted_by_the_next_that_rise() -> None:
    assert settled([*[STALE] * 3, counts(300)], at_once=False)[1] == 0


@pytest.mark.parametrize("relayed", [True, False])
@pytest.mark.parametrize("prompt", [{}, {"prompt_tokens": None}, {"prompt_tokens": 0}])
@pytest.mark.parametrize(("total", "prompt_tokens"), [(5050, 5000), (50, 0), (7, 0), (None, 0)])
def test_a_prompt_that_is_not_counted_is_what_the_total_has_beyond_the_answer(
    prompt: dict[str, Any], total: int | None, prompt_tokens: int, relayed: bool
) -> None:
    usage = {**prompt, "completion_tokens": 50, "total_tokens": total}
    expected = Usage(prompt_tokens=prompt_tokens, completion_tokens=50)
    assert told(usage, relayed=relayed) == expected


@pytest.mark.parametrize("usage", [{}, {"total_tokens": 0}, {"prompt_tokens": None}])
def test_where_nothing_is_counted_there_is_no_usage(usage: dict[str, Any]) -> None:
    assert told(usage) is None


@pytest.mark.parametrize("parts", [{}, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_of_a_total_without_parts_the_words_are_taken_off_by_their_size(
    parts: dict[str, int],
) -> None:
    usage = {**parts, "total_tokens": 5050}
    choice = {"index": 0, "message": {"content": "word " * 1000}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    plain = completion(body, None, relayed=False)
    assert plain.usage == Usage(prompt_tokens=3800, completion_tokens=1250, estimated=True)
    assert plain.said_bytes == 0
    answer = StreamedAnswer(relayed=False)
    said = {"choices": [{"index": 0, "delta": {"content": "word " * 1000}}]}
    chunks = [json.dumps(chunk).encode() for chunk in (said, {"choices": [], "usage": usage})]
    [delta] = answer.read(chunks)
    assert (delta.usage, delta.said_bytes) == (plain.usage, 0)


def test_a_total_without_parts_is_the_answers_beyond_a_prompt_that_was_counted_before() -> None:
    answer = StreamedAnswer(relayed=False)
    head = {"prompt_tokens": 5000, "completion_tokens": 0}
    end = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 6000}
    for usage in (head, end):
        [delta] = answer.read([json.dumps({"choices": [], "usage": usage}).encode()])
    assert delta.usage == Usage(prompt_tokens=5000, completion_tokens=1000)


@pytest.mark.parametrize("relayed", [True, False])
@pytest.mark.parametrize(
    ("usage", "completion_tokens"),
    [
        ({"completion_tokens": 9, "total_tokens": 1041}, 1009),
        ({"completion_tokens": 9, "total_tokens": 41}, 9),
        ({"completion_tokens": 9, "total_tokens": 5}, 9),
        ({"completion_tokens": 9, "total_tokens": "1041"}, 9),
        ({"completion_tokens": None, "total_tokens": 41}, 9),
        ({"total_tokens": 41}, 9),
        ({}, 0),
    ],
)
def test_what_is_in_the_total_alone_is_paid_for_too(
    usage: dict[str, Any], completion_tokens: int, relayed: bool
) -> None:
    expected = Usage(prompt_tokens=32, completion_tokens=completion_tokens)
    assert told({"prompt_tokens": 32, **usage}, relayed=relayed) == expected
