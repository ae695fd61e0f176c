"""Requests that were once valid, and were then broken at random: each is answered, in our form."""

import copy
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from flask import Flask

from chatport.entrypoints.routes import ROUTES
from torture import times

from .test_openapi import BODIES, SEED, service_app

REQUESTS = times(2_000, 100_000)
"""Beside the three thousand that cover the document, in `test_openapi.py`."""

EACH_APP = 1_000
"""Requests that one application gets: a log in memory that grows would slow the later ones."""

SECONDS = 2.0
Headers = dict[str, str]


@dataclass
class Raw:
    """A request, as it comes out of the parser of a server."""

    method: str
    path: bytes
    body: Any = None
    query: str = ""
    headers: Headers = field(default_factory=dict)
    data: bytes | None = None

    def environ(self) -> dict[str, Any]:
        data = json.dumps(self.body).encode() if self.data is None else self.data
        named = {name.upper().replace("-", "_"): text for name, text in self.headers.items()}
        return {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path.decode("latin-1"),
            "QUERY_STRING": self.query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": named.pop("CONTENT_TYPE", "application/json"),
            "CONTENT_LENGTH": named.pop("CONTENT_LENGTH", str(len(data))),
            "HTTP_HOST": "chatport",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **{f"HTTP_{name}": text for name, text in named.items()},
        }


STREAMED = {**BODIES["/v1/chat/completions"], "stream": True, "user": "ada"}
PARTS = [
    {"type": "text", "text": "Hi"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}}}}]
MORE_BODIES: list[tuple[str, dict[str, Any]]] = [
    (SEED, {"user_id": "ada", "prompt": "Hi", "stream": True}),
    ("/v1/chat/completions", {**STREAMED, "stream_options": {"include_usage": True}}),
    (
        "/v1/chat/completions",
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": PARTS},
            ],
            "tools": TOOLS,
            "n": 2,
            "max_tokens": 5,
            "metadata": {"a": "b"},
        },
    ),
]
QUERIES = ["", "limit=5&before=9", "since=1d&by=user&limit=2", "text=hi&state=completed&caller=a"]


def valid_requests() -> list[Raw]:
    """Return at least one request for each route."""
    found = [Raw("POST", path.encode(), body) for path, body in MORE_BODIES]
    for route in ROUTES:
        path = route.path
        for name, schema in (route.path_values or {}).items():
            path = path.replace(f"{{{name}}}", schema.get("examples", ["shop"])[0])
        found.append(Raw(route.method.upper(), path.encode(), route.example))
    return found


VALID = valid_requests()

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e308, -0.0, 0.1, "", " ", "\0", "a\0b"),
    *("\ud800", "\udc00\ud800", "\ufeff", "\u202e", "\uffff", "\U0010ffff", "x" * 5_000, "..", "%"),
    *("1", "-1", "1e9", "null", "true", "ada", "shop", "2026-11-23", "5/minute", "1 USD/day"),
    *([], {}, [[]], [{}], {"": ""}, {"a": None}, [None], {"type": "text"}, ["x"] * 300),
]
ODD_NAMES = [
    *("", "\0", "api_key", "base_url", "extra_headers", "__proto__", "constructor", "user", "n"),
    *("stream", "stream_options", "messages", "model", "max_tokens", "max_completion_tokens"),
    *("safety_identifier", "properties", "prompt", "user_id", "content", "role", "caf\u00e9"),
]
ODD_BYTES = [
    *(b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"\\u", b"\\ud800"),
    *(b"\\u0000", b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity", b"1e999", b"1" * 5_000),
    *(b"[" * 3_000, b'{"a":' * 3_000, b"\r\n", b"/*x*/", b"'", b"\xf4\x90\x80\x80", b"tru", b"-"),
]
ODD_HEADERS: list[tuple[str, list[str]]] = [
    (
        "Content-Type",
        ["", "text/plain", "application/json; charset=utf-16", 'a/b;c="', ";", "\xff"],
    ),
    ("Content-Type", ["application/JSON", "multipart/form-data; boundary=x", "application/x+json"]),
    ("Content-Length", ["0", "1", "9999", "999999999999", "2"]),
    ("Content-Encoding", ["gzip", "br", "identity", "\xff"]),
    (
        "Authorization",
        ["", "Bearer", "Bearer ", "Bearer \xff", "Basic Og==", "Digest x", "a" * 9000],
    ),
    ("Idempotency-Key", ["", "k", "k1", " ", "\xe9", "x" * 255, "x" * 256, "a b"]),
    ("x-stainless-retry-count", ["", "0", "1", "-1", "\xb2", "9" * 5000, "1.5"]),
    ("X-Request-Id", ["", "x" * 9000, "\xff"]),
    ("Host", ["", "a b", "[::1", "evil:99999", "\xff", "a" * 300]),
    ("X-Forwarded-For", ["", "x, y", ", , ,", "::1"]),
    ("Accept", ["", "text/html", "*/*;q=\xff", "application/json;q=2"]),
    ("Range", ["bytes=0-1", "x"]),
    ("If-None-Match", ["*", '"', 'W/"x"']),
    ("Cookie", ["a=b", "=", "\xff;;;="]),
    ("Expect", ["100-continue", "x"]),
    ("X-HTTP-Method-Override", ["DELETE"]),
]
METHODS = [
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "get",
    "X" * 100,
    "!",
]
ODD_PATHS = [
    b"/",
    b"//",
    b"/..",
    b"/.",
    b"\0",
    b"\xff",
    b"%2F",
    b"%",
    b"?",
    b";",
    b" ",
    b"x" * 3_000,
]
ODD_PATHS += [
    "\u00e9\U0001f600".encode(),
    b"\xed\xa0\x80",
    b"\r\n",
    b"<script>",
    b"'--",
    b":",
    b"@",
]
ODD_QUERIES = ["=", "&&", "a", "%", "%ff", "%00", "limit=-1", "limit=\xff", "limit=1e9"]
ODD_QUERIES += ["before=x"]
ODD_QUERIES += [
    "limit=1&limit=2",
    f"before={'9' * 30}",
    "since=9999999d",
    "since=0001-01-01",
    "by=",
]
ODD_QUERIES += [
    "text=%22",
    "text=*",
    "text=a+OR",
    "text=NEAR(",
    "state=x",
    "caller=%ed%a0%80",
    "x=y",
]
ODD_QUERIES += [
    "cursor=AAAA",
    f"text={'x' * 3000}",
    "limit=%D9%A1",
    "text=%00",
    "since=-1d",
    "day=1",
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a JSON value with each of its keys or indexes."""
    if isinstance(value, dict):
        children = list(value.items())
    else:
        children = list(enumerate(value)) if isinstance(value, list) else []
    for key, child in children:
        yield value, key
        yield from places(child)


def break_json(raw: Raw, random: Random) -> None:
    """Change one place of the body's structure."""
    if raw.data is not None or not (found := list(places(raw.body))):
        raw.body = copy.deepcopy(random.choice(ODD_VALUES))
        return
    where, key = random.choice(found)
    what = random.randrange(5)
    if what == 0:
        del where[key]
    elif what == 1:
        where[key] = [where[key]]
    elif what == 2 and isinstance(where, dict):
        where[random.choice(ODD_NAMES)] = where.pop(key)
    elif what == 3 and isinstance(where, dict):
        where[random.choice(ODD_NAMES)] = copy.deepcopy(random.choice(ODD_VALUES))
    else:
        where[key] = copy.deepcopy(random.choice(ODD_VALUES))


def broken_bytes(data: bytes, odd: list[bytes], random: Random) -> bytes:
    """Return the bytes with a part cut out, doubled, changed or put in."""
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.randrange(8))
    part = {
        "cut": b"",
        "double": data[start:end] * 2,
        "flip": bytes(byte ^ 1 << random.randrange(8) for byte in data[start:end]),
        "put": random.choice(odd),
        "noise": random.randbytes(3),
    }[random.choice(["cut", "double", "flip", "put", "put", "noise"])]
    return data[:start] + part + (data[end:] if random.random() < 0.9 else b"")


def break_body(raw: Raw, random: Random) -> None:
    data = json.dumps(raw.body).encode() if raw.data is None else raw.data
    raw.data = broken_bytes(data, ODD_BYTES, random)


def break_headers(raw: Raw, random: Random) -> None:
    name, texts = random.choice(ODD_HEADERS)
    raw.headers[name] = random.choice(texts)


def break_method(raw: Raw, random: Random) -> None:
    raw.method = random.choice(METHODS)


def break_path(raw: Raw, random: Random) -> None:
    raw.path = b"/" + broken_bytes(raw.path[1:], ODD_PATHS, random)


def break_query(raw: Raw, random: Random) -> None:
    parts = [raw.query, random.choice(QUERIES), random.choice(ODD_QUERIES)]
    raw.query = "&".join(part for part in random.sample(parts, 2) if part)


BREAKS: list[Callable[[Raw, Random], None]] = [
    *(break_json, break_json, break_json, break_body, break_body),
    *(break_headers, break_method, break_path, break_query),
]


def broken(number: int) -> Raw:
    """Return the request of this number, always the same."""
    random = Random(number)
    raw = copy.deepcopy(random.choice(VALID))
    for _ in range(random.choice([1, 1, 1, 2, 3, 5])):
        random.choice(BREAKS)(raw, random)
    return raw


def call(app: Flask, raw: Raw) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer, read to its end."""
    begun: list[tuple[str, list[tuple[str, str]]]] = []

    def start(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Any:
        begun.append((status, headers))

    answer: Any = app.wsgi_app(raw.environ(), start)
    try:
        body = b"".join(answer)
    finally:
        if hasattr(answer, "close"):
            answer.close()
    [(status, headers)] = begun
    return int(status[:3]), dict(headers), body


def problem_of(raw: Raw, status: int, headers: dict[str, str], body: bytes) -> str | None:
    """Return what is wrong with an answer."""
    if status >= 500 and raw.path != b"/readyz":
        return f"{status}"
    if not headers.get("X-Request-Id"):
        return "no X-Request-Id"
    if status >= 400 and raw.method != "HEAD":
        if headers["Content-Type"] != "application/json":
            return headers["Content-Type"]
        return problem_of_error(json.loads(body), seed=raw.path == SEED.encode())
    is_stream = headers.get("Content-Type", "").startswith("text/event-stream")
    return "an event tells of a defect" if is_stream and b"internal_error" in body else None


def problem_of_error(error: Any, *, seed: bool) -> str | None:
    """Return what is wrong with the body of an error."""
    if seed:
        texts = error.values() if set(error) == {"error", "code", "request_id"} else [None]
        return None if all(isinstance(text, str) and text for text in texts) else str(error)
    if set(error) != {"error"} or set(error["error"]) != {"message", "type", "param", "code"}:
        return str(error)
    facts = error["error"]
    texts = [facts["message"], facts["type"], facts["code"], facts["param"] or "-"]
    return None if all(isinstance(text, str) and text for text in texts) else str(error)


def test_what_is_to_be_broken_is_valid() -> None:
    app = service_app()
    for raw in VALID:
        status, headers, body = call(app, raw)
        assert status < 400 or b"not_found" in body, (raw, body)
        assert problem_of(raw, status, headers, body) is None


@pytest.mark.parametrize("first", range(0, REQUESTS, EACH_APP))
def test_whatever_comes_is_answered_in_time_and_in_our_form(first: int) -> None:
    app = service_app()
    problems: list[tuple[int, str, Raw]] = []
    refused = 0
    for number in range(first, first + EACH_APP):
        raw = broken(number)
        began = time.thread_time()
        status, headers, body = call(app, raw)
        seconds = time.thread_time() - began
        found = problem_of(raw, status, headers, body)
        refused += status >= 400
        if found is None and seconds > SECONDS:
            found = f"{seconds:.1f} s"
        if found is not None:
            problems.append((number, found, raw))
    assert not problems, "\n".join(map(str, problems[:20]))
    assert 0.3 * EACH_APP < refused < 0.95 * EACH_APP, "too few of both are no test"
