"""Reading a request in OpenAI's protocol: what is checked, and what of it the provider gets."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatport.entrypoints.faults import BadRequest
from chatport.entrypoints.relayed_request import RelayedRequest, read
from chatport.entrypoints.strict_json import InvalidJSON

PATIENT = settings(deadline=None)
"""A busy machine may take its time for one example."""

STAND_IN = "0" * 64
MESSAGES = '"messages":[{"role":"user","content":"Hi"}]'


def stand_in(user_id: str) -> str:
    return STAND_IN if user_id == "ada" else "f" * 64


def reading(text: str | bytes) -> RelayedRequest:
    return read(text if isinstance(text, bytes) else text.encode(), stand_in)


def refusal(text: str | bytes) -> tuple[str, str | None]:
    with pytest.raises(BadRequest) as caught:
        reading(text)
    return caught.value.code, caught.value.field


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"m",%s}',
        ' {\n "model" : "m" ,\t%s } \r\n',
        '{%s,"model":"m"}',
        '{"model":"m","temperature":1.10,"top_p":1e0,"seed":-0,"n":1E2,%s}',
        '{"model":"m","x":"\\u00e9\\/\\ud83d\\ude00 é 🙂","made_up":[{"a":[]}],%s}',
        '{"model":"m","stream":false,"stream_options":{"include_usage":false},%s}',
        '{"model":"m","stream":null,"user":null,"stream_options":null,%s}',
        '{"model":"m","stream":true,"stream_options":{ "include_usage" : true },%s}',
        '{"model":"m","na\u00efve":1,"nai\u0308ve":2,"MODEL":"x","Model":"y",%s}',
        '{"model":"m","metadata":{"stream":true,"user":"ada","model":"x"},%s}',
    ],
)
def test_a_request_is_passed_on_as_it_was_written(body: str) -> None:
    text = body % MESSAGES
    assert reading(text).relay.body == text.encode()


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ('"stream":true', '"stream":true,%s,"stream_options":{"include_usage":true}'),
        (
            '"stream":true,"stream_options":null',
            '"stream":true,"stream_options":{"include_usage":true},%s',
        ),
        (
            '"stream":true,"stream_options":{}',
            '"stream":true,"stream_options":{"include_usage":true},%s',
        ),
        (
            '"stream" : true , "stream_options" : { "include_usage" : false , "x" : 1.10 }',
            '"stream" : true , "stream_options" : { "include_usage" : true , "x" : 1.10 },%s',
        ),
        (
            '"stream":true,"stream_options":{"include_usage":null}',
            '"stream":true,"stream_options":{"include_usage":true},%s',
        ),
        (
            '"stream_options":{"include_obfuscation":false},"stream":true',
            '"stream_options":{"include_obfuscation":false,"include_usage":true},"stream":true,%s',
        ),
    ],
)
def test_a_stream_is_asked_for_with_usage(asked: str, sent: str) -> None:
    found = reading(f'{{"model":"m",{asked},{MESSAGES}}}')
    assert found.relay.body.decode() == f'{{"model":"m",{sent % MESSAGES}}}'
    assert (found.stream, found.wants_usage) == (True, False)


def test_who_asks_for_usage_wants_it() -> None:
    text = f'{{"model":"m","stream":true,"stream_options":{{"include_usage":true}},{MESSAGES}}}'
    assert reading(text).wants_usage


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ('"user":"ada"', f'"user":"{STAND_IN}"'),
        ('"user" : "a\\u0064a" ', f'"user" : "{STAND_IN}" '),
        ('"safety_identifier":"ada"', f'"safety_identifier":"{STAND_IN}"'),
        (
            '"user":"ada","x":1.10,"safety_identifier":"ada"',
            f'"user":"{STAND_IN}","x":1.10,"safety_identifier":"{STAND_IN}"',
        ),
        ('"user":null,"safety_identifier":"ada"', f'"user":null,"safety_identifier":"{STAND_IN}"'),
        ('"us\\u0065r":"ada"', f'"us\\u0065r":"{STAND_IN}"'),
    ],
)
def test_a_user_is_replaced_by_what_stands_for_them(asked: str, sent: str) -> None:
    found = reading(f'{{"model":"m",{asked},{MESSAGES}}}')
    assert found.relay.body.decode() == f'{{"model":"m",{sent},{MESSAGES}}}'
    assert found.user_id == "ada"


def test_the_safety_identifier_counts_if_two_users_are_named() -> None:
    found = reading(f'{{"model":"m","user":"bob","safety_identifier":"ada",{MESSAGES}}}')
    assert found.user_id == "ada"
    assert b"bob" not in found.relay.body


def test_a_user_and_usage_are_changed_together() -> None:
    found = reading(f'{{"stream":true,"user":"ada","model":"m",{MESSAGES}}}')
    assert found.relay.body.decode() == (
        f'{{"stream":true,"user":"{STAND_IN}","model":"m",{MESSAGES}'
        ',"stream_options":{"include_usage":true}}'
    )


def test_nobody_is_named_if_the_client_names_nobody() -> None:
    assert reading(f'{{"model":"m",{MESSAGES}}}').user_id is None


def test_messages_and_parameters_are_kept_as_they_were_written() -> None:
    first, second = '{ "role":"user","content":"1.10 \\u00e9" }', '{"content":[],"role":"x"}'
    found = reading(f'{{"model":"m","user":"ada", "messages" : [ {first} ,\n{second}] ,"n":1.0}}')
    assert found.relay.text.messages == [first, second]
    assert found.relay.text.parameters == '{"model":"m","user":"ada", "messages" : [] ,"n":1.0}'


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('{"role":"user","content":"Hi"}', "Hi"),
        ('{"role":"user","content":[{"type":"text","text":"a"},{"text":"b"}]}', "a\nb"),
        ('{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}', ""),
        ('{"role":"user","content":[1,null,"x",{"text":5}]}', ""),
        ('{"role":"assistant","content":null,"tool_calls":[]}', ""),
        ('{"role":"user"}', ""),
        ('{"role":"user","content":5}', ""),
    ],
)
def test_what_was_said_last_is_the_prompt(message: str, said: str) -> None:
    text = f'{{"model":"m","messages":[{{"role":"user","content":"before"}},{message}]}}'
    assert reading(text).prompt == said


NAMES = ["api_base", "base_url", "api_key", "extra_headers", "organization", "proxy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "place",
    [
        '"%s":"x"',
        '"%s":null',
        '"metadata":{"%s":"x"}',
        '"extra_body":{"a":[{"b":{"%s":"x"}}]}',
        '"properties":[{"%s":"x"}]',
        '"properties":{"a":{"%s":"x"}}',
        '"tools":[{"function":{"parameters":{"properties":{"%s":{}},"%s":1}}}]',
    ],
)
def test_a_forbidden_name_is_refused_at_every_level(name: str, place: str) -> None:
    text = place.replace("%s", name)
    assert refusal(f'{{"model":"m",{text},{MESSAGES}}}') == ("forbidden_field", name)


@pytest.mark.parametrize("name", NAMES)
def test_a_forbidden_name_cannot_hide_behind_escapes(name: str) -> None:
    escaped = "".join(f"\\u{ord(sign):04X}" for sign in name)
    first = f"\\u{ord(name[0]):04x}{name[1:]}"
    for hidden in (escaped, first):
        text = f'{{"model":"m","x":{{"{hidden}":1}},{MESSAGES}}}'
        assert refusal(text) == ("forbidden_field", name)


@pytest.mark.parametrize("name", NAMES)
def test_a_forbidden_name_in_a_message_is_refused(name: str) -> None:
    text = f'{{"model":"m","messages":[{{"role":"user","content":"x","{name}":"y"}}]}}'
    assert refusal(text) == ("forbidden_field", name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "place",
    [
        '"tools":[{"function":{"parameters":{"properties":{"%s":{"type":"string"}}}}}]',
        '"tools":[{"function":{"parameters":{"required":["%s"]}}}]',
        '"tools":[{"function":{"parameters":{"properties":{"a":{"properties":{"%s":{}}}}}}}]',
        '"response_format":{"json_schema":{"schema":{"properties":{"%s":{"type":"string"}}}}}',
        '"tool_choice":{"function":{"name":"%s"}}',
        '"stop":["\\"%s\\":"]',
        '"x":"%s"',
        '"made_%s_up":1',
    ],
)
def test_such_a_name_may_be_the_clients_own_in_a_schema_and_in_every_text(
    name: str, place: str
) -> None:
    text = f'{{"model":"m",{place.replace("%s", name)},{MESSAGES}}}'
    assert reading(text).relay.body == text.encode()


@pytest.mark.parametrize("bad", ["\\u0000", "\\ud800", "\\uDFFF", "\\udc4b\\ud83d"])
@pytest.mark.parametrize(
    "place",
    [
        '"x":"a%sb"',
        '"x":["%s"]',
        '"x":{"a%s":1}',
        '"x%s":1',
        '"x":[[{"a":[{"b":"%s"}]}]]',
        '"user":"%s"',
        '"stream_options":{"%s":1}',
    ],
)
def test_a_nul_or_half_a_pair_is_refused_wherever_it_stands(bad: str, place: str) -> None:
    text = f'{{"model":"m",{place.replace("%s", bad)},{MESSAGES}}}'
    assert refusal(text)[0] == "invalid_unicode"


@pytest.mark.parametrize("bad", ["\\u0000", "\\ud800"])
@pytest.mark.parametrize(
    "text",
    [
        '{"model":"%s","messages":[{"role":"user"}]}',
        '{"model":"m","messages":[{"role":"%s"}]}',
        '{"model":"m","messages":[{"role":"user","content":"%s"}]}',
        '{"model":"m","messages":[{"role":"user","%s":1}]}',
        '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"%s"}]}]}',
        '{"model":"m","messages":[{"role":"user","tool_calls":[{"id":"%s"}]}]}',
    ],
)
def test_a_nul_or_half_a_pair_in_a_message_or_a_model_is_refused(bad: str, text: str) -> None:
    assert refusal(text.replace("%s", bad))[0] == "invalid_unicode"


def test_whole_pairs_pass() -> None:
    text = f'{{"model":"m","x":"\\ud83d\\udc4b","\\ud83d\\udc4b":1,{MESSAGES}}}'
    assert reading(text).relay.body == text.encode()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": None}, "model"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"model": ["m"]}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}, None]}, "messages[1]"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [{"role": None}]}, "messages[0].role"),
        ({"messages": [{"role": 5}]}, "messages[0].role"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream": []}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"user": 5}, "user"),
        ({"user": ["ada"]}, "user"),
        ({"safety_identifier": {}}, "safety_identifier"),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_type_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    assert refusal(json.dumps(body)) == ("invalid_field", field)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_field_that_is_missing_is_refused_by_name(missing: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    del body[missing]
    assert refusal(json.dumps(body)) == ("invalid_field", missing)


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
@pytest.mark.parametrize("user", ["ada", "a@b.c", "x" * 128])
def test_a_user_is_named_as_everywhere_else(name: str, user: str) -> None:
    body = {"model": "m", "messages": [{"role": "user"}], name: user}
    assert reading(json.dumps(body).encode()).user_id == user


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
@pytest.mark.parametrize("user", ["auth0|7", "../x", "a b", "a\r\nb", "é", "x" * 129])
def test_a_user_with_another_name_is_known_by_its_hash(name: str, user: str) -> None:
    body = {"model": "m", "messages": [{"role": "user"}], name: user}
    known = reading(json.dumps(body, ensure_ascii=False).encode())
    assert known.user_id == "sha256:" + hashlib.sha256(user.encode()).hexdigest()
    assert user not in known.relay.body.decode()


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_an_empty_name_names_nobody(name: str) -> None:
    body = {"model": "m", "messages": [{"role": "user"}], name: ""}
    assert reading(json.dumps(body).encode()).user_id is None


@pytest.mark.parametrize("body", [b"null", b"[]", b'"x"', b"1"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert refusal(body) == ("invalid_json", None)


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=4)
NAMED = st.sampled_from(
    ["model", "messages", "role", "content", "stream", "stream_options", "include_usage", "user"]
)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["m", "user", "\x00", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMED | st.text(st.characters(), max_size=2), inner, max_size=4)
    ),
    max_leaves=8,
)


@PATIENT
@given(st.dictionaries(NAMED | st.text(max_size=2), ANYTHING, max_size=5), st.booleans())
def test_nothing_but_a_refusal_is_raised_and_every_sentence_can_be_sent(
    fields: dict[str, Any], good: bool
) -> None:
    if good:
        fields = {**fields, "model": "m", "messages": [{"role": "user", **fields}]}
    try:
        reading(json.dumps(fields).encode())
    except (BadRequest, InvalidJSON) as error:
        told = error
    else:
        return
    assert told.code in {
        "forbidden_field",
        "invalid_field",
        "invalid_json",
        "invalid_unicode",
    }
    assert str(told).encode()


@pytest.mark.parametrize(
    ("asked", "most"),
    [
        ({}, 4096),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_completion_tokens": None, "max_tokens": 5}, 5),
        ({"max_completion_tokens": 7, "n": 3}, 21),
        ({"max_completion_tokens": 7, "n": 0}, 7),
        ({"max_completion_tokens": 10**18}, 10**9),
        ({"max_completion_tokens": 10**9, "n": 10**9}, 10**9),
        ({"max_completion_tokens": 1, "max_tokens": 9_000}, 9_000),
        ({"max_completion_tokens": "7"}, 7),
        ({"max_completion_tokens": 7.0, "n": "2"}, 14),
        ({"max_completion_tokens": True}, 4096),
        ({"max_completion_tokens": -1}, 4096),
        ({"max_completion_tokens": 0}, 4096),
        ({"n": 4}, 4 * 4096),
        ({"max_completion_tokens": 7, "n": " 3 "}, 21),
        ({"max_completion_tokens": "1e2"}, 100),
        ({"max_completion_tokens": "inf"}, 10**9),
        ({"max_completion_tokens": "nan"}, 4096),
        ({"max_completion_tokens": "x"}, 4096),
    ],
)
def test_how_long_all_answers_may_get_is_read_and_the_body_left_alone(
    asked: dict[str, Any], most: int | None
) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **asked})
    found = read(body.encode(), str)
    assert (found.relay.max_tokens, found.relay.body) == (most, body.encode())


@pytest.mark.parametrize(("asked", "cap"), [({}, 900), ({"n": 3}, 300), ({"n": 10_000}, 1)])
def test_a_request_without_a_bound_gets_that_of_the_operator(
    asked: dict[str, Any], cap: int
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **asked}
    found = read(json.dumps(body).encode(), str, 900)
    assert found.relay.max_tokens == 900
    assert json.loads(found.relay.body) == {**body, "max_completion_tokens": cap}
    own = read(json.dumps({**body, "max_tokens": 5}).encode(), str, 900)
    assert "max_completion_tokens" not in json.loads(own.relay.body)


def test_an_image_counts_the_same_however_large_it_is() -> None:
    def size(*urls: str) -> int | None:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
        return read(json.dumps(body).encode(), str).relay.size

    small, large = "data:image/png;base64,AAAA", "data:image/png;base64," + "A" * 100_000
    assert size(small) == size(large)
    assert (size(small, large) or 0) - (size(small) or 0) in range(10_000, 10_100)
    assert (size("https://example.com/a.png") or 0) > 10_000
    text = {"role": "user", "content": "data:image/png;base64," + "A" * 100_000}
    body = {"model": "m", "messages": [text]}
    assert (read(json.dumps(body).encode(), str).relay.size or 0) > 100_000


DATA = "data:image/png;base64,"
LARGE = DATA + "A" * 100_000
TEXT = DATA + "count these words " * 6_000


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"function": {"parameters": {"image_url": {"url": LARGE}}}}]},
        {"metadata": {"content": [{"type": "image_url", "image_url": {"url": LARGE}}]}},
        {"messages": [{"role": "user", "image_url": {"url": LARGE}}]},
        {"messages": [{"role": "user", "content": {"image_url": {"url": LARGE}}}]},
        {"messages": [{"role": "user", "content": [{"text": "", "image_url": {"url": LARGE}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": LARGE}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": TEXT}}]}
            ]
        },
    ],
)
def test_what_the_model_may_read_as_text_is_counted_as_text(more: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}
    assert (read(json.dumps(body).encode(), str).relay.size or 0) > 100_000
