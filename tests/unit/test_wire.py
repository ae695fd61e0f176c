"""The records of the wire: what they take, and how they say no to the rest."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from chatport.entrypoints.faults import BadRequest
from chatport.entrypoints.wire import (
    PROBLEMS,
    ChatCompletionBody,
    CompletionBody,
    PageQuery,
    checked,
)

HI = {"role": "user", "content": "Hi"}
ASKED = {"model": "m", "messages": [HI]}

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=5,
)


def bodies(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return any objects, in which the names of fields are likely."""
    return st.dictionaries(st.sampled_from(names) | ANY_TEXT, JSON, max_size=6)


def refusal(record: type[BaseModel], values: dict[str, Any]) -> BadRequest:
    """Return the refusal of values that are no record."""
    with pytest.raises(BadRequest) as caught:
        checked(record, values)
    return caught.value


def outcome(record: type[BaseModel], values: dict[str, Any]) -> BaseModel | BadRequest:
    """Return the record, or the refusal; anything else is a defect."""
    try:
        return checked(record, values)
    except BadRequest as error:
        return error


@given(bodies("prompt", "user_id", "stream"))
def test_any_json_is_a_seed_request_or_a_bad_one(values: dict[str, Any]) -> None:
    assert isinstance(outcome(CompletionBody, values), CompletionBody | BadRequest)


@given(bodies("model", "messages", "stream", "stream_options", "user", "safety_identifier"))
def test_any_json_is_a_chat_completion_request_or_a_bad_one(values: dict[str, Any]) -> None:
    for body in (values, {**ASKED, **values}):
        assert isinstance(outcome(ChatCompletionBody, body), ChatCompletionBody | BadRequest)


@given(st.dictionaries(st.sampled_from(["before", "limit", "x"]), ANY_TEXT | st.from_regex(r"\d+")))
def test_any_text_is_a_page_or_a_bad_request(values: dict[str, Any]) -> None:
    page = outcome(PageQuery, values)
    if isinstance(page, PageQuery):
        assert 1 <= page.limit <= 200
        assert 0 <= page.before < 10**18
    else:
        assert isinstance(page, BadRequest)


def test_a_field_that_is_left_out_is_empty() -> None:
    body = checked(CompletionBody, {"prompt": "x"})
    assert (body.user_id, body.stream) == ("", False)
    page = checked(PageQuery, {})
    assert (page.before, page.limit) == (0, 50)


def test_what_is_passed_on_is_the_clients_own_and_no_copy() -> None:
    tools = [{"type": "function"}]
    body = checked(ChatCompletionBody, {**ASKED, "tools": tools})
    assert body.model_extra is not None
    assert body.model_extra["tools"] is tools


@pytest.mark.parametrize(
    ("values", "code", "field", "sentence"),
    [
        ({"model": ""}, "invalid_field", "model", "model must not be empty."),
        (
            {"model": "a\0"},
            "invalid_unicode",
            "model",
            "model holds a NUL or half a surrogate pair.",
        ),
        ({"messages": []}, "invalid_field", "messages", "messages must not be empty."),
        ({"messages": {}}, "invalid_field", "messages", "messages must be an array."),
        ({"messages": [HI, 1]}, "invalid_field", "messages[1]", "messages[1] must be an object."),
        (
            {"messages": [HI, HI, {"content": "x"}]},
            "invalid_field",
            "messages[2].role",
            "messages[2].role is missing.",
        ),
        (
            {"messages": [{"role": None}]},
            "invalid_field",
            "messages[0].role",
            "messages[0].role must be a string.",
        ),
        ({"stream": 1}, "invalid_field", "stream", "stream must be true or false."),
        (
            {"stream_options": []},
            "invalid_field",
            "stream_options",
            "stream_options must be an object.",
        ),
        (
            {"stream_options": {"include_usage": "yes"}},
            "invalid_field",
            "stream_options.include_usage",
            "stream_options.include_usage must be true or false.",
        ),
        (
            {"user": "a\0"},
            "invalid_unicode",
            "user",
            "user holds a NUL or half a surrogate pair.",
        ),
        (
            {"safety_identifier": 1},
            "invalid_field",
            "safety_identifier",
            "safety_identifier must be a string.",
        ),
        (
            {"messages": [{"role": "user"}] * 10_001},
            "invalid_field",
            "messages",
            "messages has too many items.",
        ),
        (
            {chr(0xD800): 1},
            "invalid_unicode",
            None,
            "A name in the body holds a NUL or half a surrogate pair.",
        ),
    ],
)
def test_a_refusal_names_the_field_and_quotes_nothing(
    values: dict[str, Any], code: str, field: str | None, sentence: str
) -> None:
    error = refusal(ChatCompletionBody, {**ASKED, **values})
    assert (error.status, error.code, error.field, str(error)) == (400, code, field, sentence)


@pytest.mark.parametrize("name", ["stream", "stream_options", "user", "safety_identifier"])
def test_what_openai_lets_be_null_may_be_null(name: str) -> None:
    assert getattr(checked(ChatCompletionBody, {**ASKED, name: None}), name) is None


def test_only_the_first_of_many_mistakes_is_looked_for() -> None:
    error = refusal(ChatCompletionBody, {"model": "m", "messages": [0] * 10_000})
    assert error.field == "messages[0]"


def test_the_table_of_problems_says_nothing_twice_and_quotes_only_a_bound() -> None:
    for code, sentence in PROBLEMS.values():
        assert code in {"invalid_field", "invalid_unicode", "invalid_user_id"}
        words = re.sub(r"\{(ge|le|max_length|expected)\}", "", sentence)
        assert words.isprintable()
        assert "{" not in words
