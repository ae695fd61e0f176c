"""A streamed answer put together again, with the SDK as the judge."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from pytest_mock import MockerFixture

from chatport.domain import Exchange, RequestText
from chatport.entrypoints import whole_exchange
from chatport.entrypoints.whole_exchange import assembled, request_of, response_of

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}


def chunk(delta: dict[str, Any], reason: str | None = None, **choice: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": reason, **choice}]}


def call(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **first.pop("function", {})}
    return {"tool_calls": [{"index": index, "function": function, **first}]}


CHUNKS = [
    chunk({"role": "assistant", "content": ""}, logprobs=None),
    chunk(
        {"content": "Hel"},
        logprobs={"content": [{"token": "Hel", "logprob": -0.1, "top_logprobs": []}]},
    ),
    chunk(
        {"content": "lo"},
        logprobs={"content": [{"token": "lo", "logprob": -0.2, "top_logprobs": []}]},
    ),
    chunk(call(0, "", id="call_1", type="function", function={"name": "weather"})),
    chunk(call(0, '{"city":')),
    chunk(call(1, "{}", id="call_2", type="function", function={"name": "time"})),
    chunk(call(0, '"Paris"}')),
    chunk({}, "tool_calls"),
    {**HEAD, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
]


def exchange(*answer: dict[str, Any], stream: bool) -> Exchange:
    parameters = json.dumps({"model": "m-1", "messages": [], "stream": stream, "seed": 1.10})
    return Exchange(
        id="e",
        caller="anonymous",
        user_id="ada",
        route="/v1/chat/completions",
        model="m-1",
        prompt="Hi",
        started_at=NOON,
        lease_until=NOON,
        request=RequestText(messages=['{"role": "user"}', '{"a":1}'], parameters=parameters),
        answer=[json.dumps(piece).encode() for piece in answer],
    )


def test_a_stream_adds_up_to_what_the_sdk_makes_of_it() -> None:
    state = ChatCompletionStreamState()
    for piece in CHUNKS:
        usage = {"total_tokens": 7, **piece["usage"]} if "usage" in piece else None
        state.handle_chunk(ChatCompletionChunk.model_validate({**piece, "usage": usage}))
    theirs = state.get_final_completion().choices[0].message
    [ours] = assembled(CHUNKS)["choices"]
    assert ours["message"]["content"] == theirs.content == "Hello"
    assert theirs.tool_calls is not None
    assert [
        (each["id"], each["function"]["name"], each["function"]["arguments"])
        for each in ours["message"]["tool_calls"]
    ] == [(each.id, each.function.name, each.function.arguments) for each in theirs.tool_calls]
    assert ours["finish_reason"] == "tool_calls"
    assert [each["token"] for each in ours["logprobs"]["content"]] == ["Hel", "lo"]


def test_a_stream_keeps_what_stands_outside_of_its_choices() -> None:
    whole = assembled([*CHUNKS, {**HEAD, "service_tier": "flex", "choices": []}])
    assert {name: value for name, value in whole.items() if name != "choices"} == {
        **HEAD,
        "object": "chat.completion",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        "service_tier": "flex",
    }


def test_several_choices_do_not_mix() -> None:
    pieces = [chunk({"content": "a"}), chunk({"content": "x"}, index=1), chunk({"content": "b"})]
    texts = [choice["message"]["content"] for choice in assembled(pieces)["choices"]]
    assert texts == ["ab", "x"]


@pytest.mark.parametrize("odd", ["abc", {"a": 1}, 5, True, ["x"], [None], [[{}]]])
def test_choices_that_are_none_hide_no_others(odd: Any) -> None:
    pieces = [chunk({"content": "a"}), {**HEAD, "choices": odd}, chunk({"content": "b"})]
    texts = [choice["message"]["content"] for choice in assembled(pieces)["choices"]]
    assert texts == ["ab"]


def test_a_word_that_is_repeated_in_every_chunk_is_said_once() -> None:
    pieces = [chunk({"role": "assistant", "content": "a"}), chunk({"role": "assistant"})]
    [choice] = assembled(pieces)["choices"]
    assert choice["message"] == {"role": "assistant", "content": "a"}


def test_fields_that_nobody_knows_grow_as_texts_lists_and_objects() -> None:
    pieces = [
        chunk({"reasoning": "I th", "x": {"n": 1, "t": "a"}, "list": ["a"], "was": None}),
        chunk({"reasoning": "ink", "x": {"n": 2, "t": "b"}, "list": ["b"], "was": 3}),
    ]
    [choice] = assembled(pieces)["choices"]
    assert choice["message"] == {
        "reasoning": "I think",
        "x": {"n": 2, "t": "ab"},
        "list": ["a", "b"],
        "was": 3,
    }


def test_lists_within_the_items_of_a_list_grow_too() -> None:
    pieces = [
        chunk({"parts": [{"index": 0, "words": ["a"], "text": "x"}, "no item", 7]}),
        chunk({"parts": [{"index": 0, "words": ["b"], "text": "y"}, {"index": [1]}]}),
        chunk({"parts": [{"index": 0, "words": ["c"], "text": ["z"]}, {"index": [1]}]}),
    ]
    [choice] = assembled(pieces)["choices"]
    first = {"index": 0, "words": ["a", "b", "c"], "text": ["z"]}
    assert choice["message"]["parts"] == [first, "no item", 7, {"index": [1]}, {"index": [1]}]


def test_a_long_answer_takes_no_longer_for_each_of_its_pieces() -> None:
    asked = []

    class Item(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.append(name)
            return super().get(name, default)

    class Word(str):
        __slots__ = ()

        def __radd__(self, before: str) -> str:
            asked.append("a copy of the text")
            return str(before) + str(self)

    def piece(n: int) -> dict[str, Any]:
        said = {"content": Word("a"), "tool_calls": [Item(index=n, id=f"call_{n}")]}
        return chunk(said, logprobs={"content": [Item(token="a", logprob=-0.1)]})

    [choice] = assembled(piece(n) for n in range(1000))["choices"]
    assert choice["message"]["content"] == "a" * 1000
    assert len(choice["message"]["tool_calls"]) == len(choice["logprobs"]["content"]) == 1000
    assert asked == ["index"] * 2000


def test_indexes_that_collide_are_not_compared_with_each_other() -> None:
    compared = []

    class Index(int):
        def __hash__(self) -> int:
            return 0

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return int(self) == other

    calls = [{"index": Index(n), "id": f"call_{n}"} for n in range(200)]
    [choice] = assembled([chunk({"tool_calls": calls}), chunk(call(Index(7), "{}"))])["choices"]
    assert len(choice["message"]["tool_calls"]) == 200
    assert choice["message"]["tool_calls"][7]["function"] == {"arguments": "{}"}
    assert compared == []


def test_others_have_their_turn_while_a_long_answer_is_put_together(mocker: MockerFixture) -> None:
    turn = mocker.spy(whole_exchange, "let_others_run")
    response_of(exchange(*[chunk({"content": "a"})] * 250, stream=True))
    assert turn.call_count == 3


def test_a_whole_answer_and_an_error_are_shown_as_they_came() -> None:
    answer = {"object": "chat.completion", "choices": [], "x": 1}
    assert response_of(exchange(answer, stream=False)) == answer
    error = {"error": {"message": "No.", "code": None}}
    assert response_of(exchange(error, stream=True)) == error


def test_a_stream_of_one_chunk_is_put_together_too() -> None:
    [choice] = response_of(exchange(chunk({"content": "a"}), stream=True))["choices"]
    assert choice["message"] == {"content": "a"}


def test_no_answer_is_nothing() -> None:
    assert response_of(exchange(stream=True)) is None


def test_a_request_has_its_messages_where_they_were() -> None:
    whole = exchange(stream=True)
    assert whole.request is not None
    assert request_of(whole.request) == {
        "model": "m-1",
        "messages": [{"role": "user"}, {"a": 1}],
        "stream": True,
        "seed": 1.1,
    }
    no_messages = replace(whole.request, messages=[])
    assert request_of(no_messages)["messages"] == []


@pytest.mark.parametrize(
    "odd",
    [
        {"object": None},
        {"object": 5},
        {"choices": [{"index": None, "delta": {"content": "x"}}, {"index": 1, "delta": {}}]},
        {"choices": [{"index": "0", "delta": {}}, {"index": [], "delta": {}}, {"index": {}}]},
    ],
)
@pytest.mark.parametrize("before", [(), (HEAD,)])
def test_any_answer_that_was_taken_can_be_shown(odd: dict[str, Any], before: Any) -> None:
    shown = response_of(exchange(*before, odd, stream=bool(before)))
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_what_is_no_json_is_shown_as_text() -> None:
    stored = exchange({"object": "chat.completion", "score": math.nan}, stream=False)
    assert response_of(stored)["score"] == "NaN"


@pytest.mark.parametrize("number", ["1e999", "-1E+400"])
def test_a_number_that_is_too_large_is_shown_as_text(number: str) -> None:
    stored = exchange({"object": "chat.completion", "choices": []}, stream=False)
    answer = [b'{"object": "chat.completion", "score": %b}' % number.encode()]
    assert response_of(replace(stored, answer=answer))["score"] == number
