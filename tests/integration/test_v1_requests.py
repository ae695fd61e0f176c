"""What reaches the provider of a request in OpenAI's protocol, and what does not get there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore, ScriptedGateway
from chatport.entrypoints.request_body import MAX_BODY_BYTES

from .faults import KEY
from .relaying import ASKED, PATH, STREAMED, Wire, error_of, wire_to
from .upstream import Answer, Upstream
from .wire import HELLO, chunks, completion, json_http

HI = '{"role":"user","content":"Hi"}'
STAND_IN = re.compile(rb'"[0-9a-f]{64}"')


@pytest.fixture
def wire(upstream: Upstream) -> Iterator[Wire]:
    upstream.plays(Answer(json_http("200 OK", completion())))
    with wire_to(upstream) as wire:
        yield wire


def sent(wire: Wire, upstream: Upstream, body: str) -> str:
    assert wire.ask(body.encode()).status_code == 200
    return upstream.received[-1].body.decode()


BODIES = {
    "compact": f'{{"model":"m","messages":[{HI}]}}',
    "spaces": f'\t{{ "model" :\r\n"m" ,\n"messages" : [ {HI} , {HI} ] }} \n',
    "another order": f'{{"messages":[{HI}],"zebra":1,"model":"m","apple":2}}',
    "numbers": f'{{"model":"m","a":1.10,"b":1e2,"c":-0,"d":1E-7,"e":0.30000000000000004,'
    f'"f":9223372036854775807,"messages":[{HI}]}}',
    "escapes": f'{{"model":"m","a":"\\u00e9\\/\\n\\ud83d\\ude00\\"","b":"é/🙂","messages":[{HI}]}}',
    "names alike": f'{{"model":"m","é":1,"e\\u0301":2,"\\u00c9":3,"Model":4,"messages":[{HI}]}}',
    "unknown fields": f'{{"model":"m","x":{{"y":[null,true,[],{{}}]}},"messages":[{HI}],"":0}}',
    "emoji": '{"model":"m","messages":[{"role":"user","content":"👩‍👩‍👧‍👦 \u202e\u2028\ufeff"}]}',
    "parts": '{"model":"m","messages":[{"role":"user","content":[{"type":"image_url",'
    '"image_url":{"url":"data:image/png;base64,AAAA"}}]}]}',
    "both limits": f'{{"model":"m","max_tokens":1,"max_completion_tokens":1,"messages":[{HI}]}}',
    "a huge message": f'{{"model":"m","messages":[{{"role":"user","content":"{"é" * 400_000}"}}]}}',
    "many messages": f'{{"model":"m","messages":[{",".join([HI] * 10_000)}]}}',
    "the user elsewhere": f'{{"model":"m","metadata":{{"user":"ada"}},"messages":[{HI}]}}',
    "a stream that is none": f'{{"model":"m","stream":false,"messages":[{HI}]}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_the_provider_gets_the_clients_bytes(body: str, wire: Wire, upstream: Upstream) -> None:
    assert sent(wire, upstream, body) == body


@pytest.mark.parametrize("store", [MemoryStore, PeeweeStore])
def test_the_log_keeps_the_clients_bytes(store: type, upstream: Upstream, tmp_path: Any) -> None:
    upstream.plays(Answer(json_http("200 OK", completion())))
    opened = store(tmp_path / "log.db") if store is PeeweeStore else store()
    with wire_to(upstream, store=opened) as wire:
        wire.ask(
            f'{{ "model":"m", "n":1.0,\n"messages" : [ {HI} , {{"role":"\\u0078"}} ] }}'.encode()
        )
        stored = wire.stored()
        opened.close()
    assert stored.request is not None
    assert list(stored.request.messages) == [HI, '{"role":"\\u0078"}']
    assert stored.request.parameters == '{ "model":"m", "n":1.0,\n"messages" : [] }'
    assert (stored.route, stored.model, stored.prompt) == (PATH, "m", "")


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_the_provider_gets_a_hash_for_the_user_and_every_other_byte(
    name: str, wire: Wire, upstream: Upstream
) -> None:
    body = f'{{"a":1.10, "{name}" : "ada@example.org" ,"model":"m","messages":[{HI}], "z":1e2 }}'
    told = sent(wire, upstream, body).encode()
    assert STAND_IN.sub(b'"ada@example.org"', told).decode() == body
    assert b"ada@" not in told


def test_the_hash_of_a_user_is_stable_and_nobody_elses(wire: Wire, upstream: Upstream) -> None:
    users = ["ada", "ada", "Ada", "bob"]
    for user in users:
        wire.ask({**ASKED, "user": user})
    first, second, other, third = [json.loads(call.body)["user"] for call in upstream.received]
    assert first == second
    assert len({first, other, third}) == 3


def test_the_hash_of_a_user_outlives_a_restart_and_is_another_in_another_store(
    upstream: Upstream, tmp_path: Any
) -> None:
    upstream.plays(Answer(json_http("200 OK", completion())))
    for file in ("one.db", "one.db", "other.db"):
        store = PeeweeStore(tmp_path / file)
        with wire_to(upstream, store=store) as wire:
            wire.ask({**ASKED, "user": "ada"})
        store.close()
    first, second, other = [json.loads(call.body)["user"] for call in upstream.received]
    assert first == second
    assert first != other


def test_a_stream_is_asked_for_with_usage_and_every_other_byte_is_the_clients(
    wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(*HELLO)))
    wire.ask(f'{{ "stream" : true , "x":1.10,"model":"m","messages":[{HI}]\n}}'.encode())
    assert upstream.received[0].body.decode() == (
        f'{{ "stream" : true , "x":1.10,"model":"m","messages":[{HI}]\n'
        ',"stream_options":{"include_usage":true}}'
    )


def test_other_options_of_a_stream_stay(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(*HELLO)))
    options = '{ "include_obfuscation":false, "include_usage" : false, "x":1.10 }'
    wire.ask(f'{{"stream":true,"stream_options":{options},"model":"m","messages":[{HI}]}}'.encode())
    assert upstream.received[0].body.decode() == (
        '{"stream":true,"stream_options":{ "include_obfuscation":false, "include_usage" : true,'
        f' "x":1.10 }},"model":"m","messages":[{HI}]}}'
    )


@pytest.mark.parametrize("body", [ASKED, STREAMED], ids=["plain", "stream"])
def test_no_header_of_the_client_reaches_the_provider(
    body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(
        Answer(chunks(*HELLO) if body is STREAMED else json_http("200 OK", completion()))
    )
    wire.client.set_cookie("session", "canary")
    wire.ask(
        body,
        Authorization="Bearer sk-of-the-client-canary",
        OpenAI_Organization="org-canary",
        OpenAI_Project="proj-canary",
        X_Api_Key="canary",
        Api_Key="canary",
        X_Forwarded_For="10.0.0.1",
        User_Agent="canary",
        X_Stainless_Retry_Count="0",
        Idempotency_Key="canary",
        X_Request_Id="canary",
        Accept_Encoding="gzip",
    )
    [received] = upstream.received
    assert received.line == "POST /v1/chat/completions HTTP/1.1"
    assert received.headers == {
        "Host": upstream.host,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "User-Agent": "chatport",
        "Content-Length": str(len(received.body)),
    }


def test_the_answer_to_the_client_has_no_header_of_the_providers(
    wire: Wire, upstream: Upstream
) -> None:
    names = ("Set-Cookie: a=canary", "X-Request-Id: req_canary", "openai-organization: canary")
    upstream.plays(Answer(json_http("200 OK", completion(), *names)))
    assert "canary" not in str(wire.ask().headers)
    assert wire.stored().upstream_request_id == "req_canary"


def test_query_strings_do_not_reach_the_provider(wire: Wire, upstream: Upstream) -> None:
    wire.ask(path=f"{PATH}?api-version=canary&base_url=http://x")
    assert upstream.received[0].line == "POST /v1/chat/completions HTTP/1.1"


SCHEMA = {"type": "object", "properties": {"organization": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": SCHEMA}}


def test_a_tool_may_have_a_parameter_called_organization(wire: Wire, upstream: Upstream) -> None:
    body = json.dumps({**ASKED, "tools": [TOOL]})
    assert sent(wire, upstream, body) == body


REFUSED: dict[str, tuple[Any, int, str, str | None]] = {
    "no model": ({"messages": ASKED["messages"]}, 400, "invalid_field", "model"),
    "no messages": ({"model": "m"}, 400, "invalid_field", "messages"),
    "empty messages": ({**ASKED, "messages": []}, 400, "invalid_field", "messages"),
    "a model of another type": ({**ASKED, "model": 5}, 400, "invalid_field", "model"),
    "a model of 201 letters": ({**ASKED, "model": "m" * 201}, 400, "invalid_field", "model"),
    "messages of another type": ({**ASKED, "messages": "Hi"}, 400, "invalid_field", "messages"),
    "a message of another type": ({**ASKED, "messages": [1]}, 400, "invalid_field", "messages[0]"),
    "no role": ({**ASKED, "messages": [{}]}, 400, "invalid_field", "messages[0].role"),
    "stream as text": ({**ASKED, "stream": "true"}, 400, "invalid_field", "stream"),
    "options as text": ({**ASKED, "stream_options": "x"}, 400, "invalid_field", "stream_options"),
    "a user of another type": ({**ASKED, "user": 5}, 400, "invalid_field", "user"),
    "base_url": ({**ASKED, "base_url": "http://x"}, 400, "forbidden_field", "base_url"),
    "a deep api_key": ({**ASKED, "x": [{"y": {"api_key": 1}}]}, 400, "forbidden_field", "api_key"),
    "a hidden proxy": (
        json.dumps({**ASKED, "PROXY": 1}).replace("PROXY", "\\u0070roxy").encode(),
        400,
        "forbidden_field",
        "proxy",
    ),
    "NUL": ({**ASKED, "x": ["\0"]}, 400, "invalid_unicode", None),
    "half a pair": ({**ASKED, "x": {chr(0xD800): 1}}, 400, "invalid_unicode", None),
    "half a pair in a message": (
        {**ASKED, "messages": [{"role": "user", "content": chr(0xDC00)}]},
        400,
        "invalid_unicode",
        None,
    ),
    "a list": ([ASKED], 400, "invalid_json", None),
    "no JSON": (b"{", 400, "invalid_json", None),
    "nothing": (b"", 400, "invalid_json", None),
    "a key twice": (b'{"model":"m","model":"m"}', 400, "invalid_json", None),
    "NaN": (b'{"model":"m","x":NaN}', 400, "invalid_json", None),
    "too deep": (b'{"x":' + b"[" * 99_999, 400, "invalid_json", None),
    "UTF-16": (json.dumps(ASKED).encode("utf-16"), 400, "invalid_encoding", None),
    "a byte order mark": (
        b"\xef\xbb\xbf" + json.dumps(ASKED).encode(),
        400,
        "invalid_encoding",
        None,
    ),
    "1 MB and 1 byte": (b" " * (MAX_BODY_BYTES + 1), 413, "body_too_large", None),
}


@pytest.mark.parametrize(("body", "status", "code", "param"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_before_anything_is_stored_or_called(
    *, body: Any, status: int, code: str, param: str | None, wire: Wire, upstream: Upstream
) -> None:
    response = wire.ask(body)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert wire.nothing_stored()
    assert upstream.connections == 0


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("multipart/form-data; boundary=x", {}),
        ("", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
    ],
)
def test_a_body_that_is_not_declared_as_json_is_415(
    kind: str, headers: dict[str, str], wire: Wire, upstream: Upstream
) -> None:
    response = wire.client.post(
        PATH, data=json.dumps(ASKED), content_type=kind or None, headers=headers
    )
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"
    assert upstream.connections == 0


def test_a_body_of_exactly_1_mb_is_taken(wire: Wire, upstream: Upstream) -> None:
    body = json.dumps(ASKED)
    assert sent(wire, upstream, body.ljust(MAX_BODY_BYTES)) == body.ljust(MAX_BODY_BYTES)


@pytest.mark.parametrize("body", [ASKED, STREAMED], ids=["plain", "stream"])
def test_a_model_that_is_not_listed_is_refused_before_the_call(
    body: dict[str, Any], upstream: Upstream
) -> None:
    with wire_to(upstream, allowed_models=["other/model", "another"]) as wire:
        response = wire.ask({**body, "model": "other/model "})
        assert response.status_code == 400
        error = error_of(response)
        assert (error["code"], error["param"]) == ("model_not_allowed", "model")
        assert wire.nothing_stored()
    assert upstream.connections == 0


def test_a_model_that_is_listed_is_asked(upstream: Upstream) -> None:
    upstream.plays(Answer(json_http("200 OK", completion())))
    with wire_to(upstream, allowed_models=["other/model"]) as wire:
        assert wire.ask({**ASKED, "model": "other/model"}).status_code == 200
    assert json.loads(upstream.received[0].body)["model"] == "other/model"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *(
            (method, PATH, "POST")
            for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
        ),
        *((method, "/v1/models", "GET, HEAD") for method in ("POST", "PUT", "DELETE", "OPTIONS")),
        *((method, "/v1/models/a/b", "GET, HEAD") for method in ("POST", "PUT", "DELETE")),
    ],
)
def test_another_method_is_405_and_told_which_are_allowed(
    method: str, path: str, allowed: str
) -> None:
    response = Wire(ScriptedGateway("Hi")).client.open(path, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, allowed)
    assert response.headers["Cache-Control"] == "no-store"
    assert len(response.headers["X-Request-Id"]) == 32
    if method != "HEAD":
        assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/chat/completions/", "/v1/completions", "/v1//models", "/v1/models/"],
)
def test_another_path_is_404_in_openais_form(path: str) -> None:
    response = Wire(ScriptedGateway("Hi")).client.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


def test_a_request_that_is_passed_on_is_no_turn_of_a_conversation(
    wire: Wire, upstream: Upstream
) -> None:
    wire.ask({**ASKED, "user": "ada"})
    wire.ask({"user_id": "ada", "prompt": "And now?"}, path="/openai-completion")
    assert json.loads(upstream.received[1].body)["messages"] == [
        {"role": "user", "content": "And now?"}
    ]
