"""Requests to `/openai-completion` that are refused before anything is stored or called."""

import gzip
import io
import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from chatport.adapters import MemoryStore, ScriptedGateway, SystemClock, random_id
from chatport.domain.chat import ChatService
from chatport.domain.model import LogQuery
from chatport.entrypoints.flask_app import create_app

PATH = "/openai-completion"
JSON = "application/json"
NO_STRINGS: list[Any] = [None, True, 1, 1.5, [], {}, ["x"]]
NO_BOOLEANS: list[Any] = ["true", "false", "", 1, 0, None, []]
USER_ID = "user_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ @ : -."


class Service:
    """A service that keeps what it got."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.gateway = ScriptedGateway("Hi")
        service = ChatService(
            store=self.store,
            gateway=self.gateway,
            clock=SystemClock(),
            new_id=random_id,
            model="m",
            max_prompt_bytes=1000,
        )
        self.client: FlaskClient = create_app(service, dict).test_client()

    def send(self, body: bytes | str, content_type: str | None = JSON, **more: Any) -> TestResponse:
        return self.client.post(PATH, data=body, content_type=content_type, **more)

    @property
    def untouched(self) -> bool:
        return not self.gateway.calls and not self.store.search(LogQuery())


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_prompt_alone_is_enough(service: Service) -> None:
    assert service.send(b'{"prompt": "x"}').status_code == 200


@pytest.mark.parametrize(
    ("fields", "code", "error"),
    [
        ({}, "invalid_field", "prompt is missing."),
        ({"user_id": "ada"}, "invalid_field", "prompt is missing."),
        *(({"prompt": value}, "invalid_field", "prompt must be a string.") for value in NO_STRINGS),
        *(
            ({"prompt": "x", "user_id": value}, "invalid_field", "user_id must be a string.")
            for value in NO_STRINGS
        ),
        *(
            ({"prompt": "x", "stream": value}, "invalid_field", "stream must be true or false.")
            for value in NO_BOOLEANS
        ),
        *(
            ({"prompt": value}, "invalid_field", "prompt must not be empty.")
            for value in ("", " ", "\n\t", "\u2003")
        ),
        ({"prompt": "x" * 1001}, "invalid_field", "prompt is longer than 1000 bytes."),
        ({"prompt": "é" * 501}, "invalid_field", "prompt is longer than 1000 bytes."),
        *(
            ({"prompt": value}, "invalid_unicode", "prompt holds a NUL or half a surrogate pair.")
            for value in ("a\x00b", "a" + chr(0xD800), chr(0xDC4B) + chr(0xD83D))
        ),
        *(
            ({"prompt": "x", "user_id": value}, "invalid_user_id", USER_ID)
            for value in (
                *("", " ", "a b", "../x", "a/b", "a\x00", "a\r\nX: y", "a\n", "\u202eada", "😀"),
                *("'", '"', "%00", "é", "\u0430", "a" * 129, "a" * 5000, chr(0xD800)),
            )
        ),
    ],
)
def test_a_wrong_field_is_refused_in_one_sentence(
    service: Service, fields: dict[str, Any], code: str, error: str
) -> None:
    response = service.send(json.dumps(fields))
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == 400
    assert response.json == {"error": error, "code": code, "request_id": request_id}
    assert service.untouched


@pytest.mark.parametrize("user_id", ["a", "a" * 128, "A-Z_09.@:", "0", "-", "..", "ada@x.org"])
def test_a_user_id_of_the_allowed_characters_is_taken(service: Service, user_id: str) -> None:
    response = service.send(json.dumps({"prompt": "x", "user_id": user_id}))
    assert response.json == {"user_id": user_id, "completion": "Hi"}


@pytest.mark.parametrize("prompt", ["x" * 1000, "é" * 500])
def test_the_longest_prompt_is_taken(service: Service, prompt: str) -> None:
    assert service.send(json.dumps({"prompt": prompt})).status_code == 200


@pytest.mark.parametrize(
    "name", ["model", "Prompt", "prompt ", "api_key", "base_url", "", "\u202e"]
)
def test_an_unknown_field_is_refused_without_being_quoted(service: Service, name: str) -> None:
    response = service.send(json.dumps({"prompt": "x", name: "y"}))
    assert response.status_code == 400
    assert response.json == {
        "error": (
            "The body has a field that this route does not know; it knows prompt, stream, user_id."
        ),
        "code": "unknown_field",
        "request_id": response.headers["X-Request-Id"],
    }
    assert service.untouched


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"prompt=x", "invalid_json"),
        (b'{"prompt": "x"', "invalid_json"),
        (b'{"prompt": "x"} {}', "invalid_json"),
        (b'{"prompt": "x", "prompt": "y"}', "invalid_json"),
        (b'{"prompt": NaN}', "invalid_json"),
        (b'{"prompt": 1e999}', "invalid_json"),
        (b'{"prompt": 9223372036854775808}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}", "invalid_json"),
        (b'["prompt", "x"]', "invalid_json"),
        (b'"x"', "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"prompt": "\xff"}', "invalid_encoding"),
        (b'{"prompt": "\xed\xa0\x80"}', "invalid_encoding"),
        (b'\xef\xbb\xbf{"prompt": "x"}', "invalid_encoding"),
        ('{"prompt": "x"}'.encode("utf-16"), "invalid_encoding"),
        ('{"prompt": "x"}'.encode("utf-32"), "invalid_encoding"),
    ],
)
def test_what_is_no_json_object_is_refused(service: Service, body: bytes, code: str) -> None:
    response = service.send(body)
    assert response.status_code == 400
    assert response.json is not None
    assert sorted(response.json) == ["code", "error", "request_id"]
    assert response.json["code"] == code
    assert response.json["request_id"] == response.headers["X-Request-Id"]
    assert service.untouched


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/problem+json",
        "application/jsonp",
        "application/json, text/plain",
    ],
)
def test_another_content_type_is_refused(service: Service, content_type: str | None) -> None:
    response = service.send(b'{"prompt": "x"}', content_type)
    assert response.status_code == 415
    assert response.json == {
        "error": "Send the body as Content-Type: application/json, without Content-Encoding.",
        "code": "unsupported_media_type",
        "request_id": response.headers["X-Request-Id"],
    }
    assert service.untouched


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;",
    ],
)
def test_json_is_json_however_it_is_spelled(service: Service, content_type: str) -> None:
    assert service.send(b'{"prompt": "x"}', content_type).status_code == 200


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "nonsense"])
def test_a_charset_changes_nothing_since_json_is_utf_8(service: Service, charset: str) -> None:
    """RFC 8259, section 11: the parameter has no effect on compliant recipients."""
    content_type = f"application/json; charset={charset}"
    assert service.send('{"prompt": "é"}'.encode(), content_type).status_code == 200
    (call,) = service.gateway.calls
    assert call.messages[0].text == "é"
    refused = service.send('{"prompt": "é"}'.encode("latin-1"), content_type)
    assert refused.status_code == 400
    assert refused.json is not None
    assert refused.json["code"] == "invalid_encoding"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x-anything"])
def test_a_content_encoding_is_refused_unread(service: Service, encoding: str) -> None:
    body = gzip.compress(b'{"prompt": "x"}')
    response = service.send(body, headers={"Content-Encoding": encoding})
    assert response.status_code == 415
    assert service.untouched


def too_large(response: TestResponse) -> bool:
    assert response.json is not None
    return (response.status_code, response.json["code"]) == (413, "body_too_large")


def test_a_body_of_a_million_bytes_is_read_and_one_more_is_not(service: Service) -> None:
    largest = b'{"prompt": "' + b"x" * (1_000_000 - 14) + b'"}'
    read = service.send(largest)
    assert read.json is not None
    assert read.json["error"] == "prompt is longer than 1000 bytes."
    refused = service.send(largest + b" ")
    assert too_large(refused)
    assert refused.json == {
        "error": "The body is larger than this server takes;"
        " CHATPORT_MAX_BODY_BYTES says how much.",
        "code": "body_too_large",
        "request_id": refused.headers["X-Request-Id"],
    }
    assert service.untouched


def test_a_length_that_is_too_large_is_refused_before_the_body_is_read(service: Service) -> None:
    stream = io.BytesIO(b"x" * 2_000_000)
    response = service.send(
        b"", environ_overrides={"CONTENT_LENGTH": "2000000", "wsgi.input": stream}
    )
    assert too_large(response)
    assert stream.tell() == 0
    assert service.untouched


def chunked(service: Service, stream: io.BytesIO) -> TestResponse:
    """Send a body without a length, as a server hands a chunked one on."""
    environ = {
        "wsgi.input": stream,
        "wsgi.input_terminated": True,
        "HTTP_TRANSFER_ENCODING": "chunked",
        "CONTENT_LENGTH": "",
    }
    return service.send(b"", environ_overrides=environ)


def test_a_chunked_body_is_read(service: Service) -> None:
    assert chunked(service, io.BytesIO(b'{"prompt": "x"}')).status_code == 200


def test_a_chunked_body_of_a_million_bytes_is_read(service: Service) -> None:
    body = b'{"prompt": "x"}'
    assert chunked(service, io.BytesIO(body.ljust(1_000_000))).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "' + b"x" * 5_000_000 + b'"}',
        b'{"prompt": "x"}'.ljust(1_000_001),
        b'{"prompt": "x"}'.ljust(1_000_000) + b"and what is not JSON",
    ],
    ids=["long", "padded", "hidden"],
)
def test_a_chunked_body_that_grows_too_large_is_neither_read_to_its_end_nor_cut(
    service: Service, body: bytes
) -> None:
    stream = io.BytesIO(body)
    assert too_large(chunked(service, stream))
    assert stream.tell() <= 1_100_000
    assert service.untouched


def test_a_body_that_is_shorter_than_its_length_is_refused(service: Service) -> None:
    environ = {"CONTENT_LENGTH": "100", "wsgi.input": io.BytesIO(b'{"prompt": "x"}')}
    response = service.send(b"", environ_overrides=environ)
    assert response.status_code == 400
    assert response.json is not None
    assert sorted(response.json) == ["code", "error", "request_id"]
    assert service.untouched


class BrokenStream(io.RawIOBase):
    """A body that cannot be read: the client left, or what it sent are no chunks."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        raise OSError("canary")


@pytest.mark.parametrize(
    "environ",
    [
        {"CONTENT_LENGTH": "100"},
        {
            "CONTENT_LENGTH": "",
            "HTTP_TRANSFER_ENCODING": "chunked",
            "wsgi.input_terminated": True,
        },
    ],
    ids=["length", "chunked"],
)
def test_a_body_that_breaks_off_is_the_clients_fault(
    service: Service, environ: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    response = service.send(b"", environ_overrides={**environ, "wsgi.input": BrokenStream()})
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["code"] == "bad_request"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert service.untouched
