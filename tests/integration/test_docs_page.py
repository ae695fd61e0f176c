"""`/docs`: a page that says what `/openapi.json` says, with our own style sheet and no script."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import chatport.entrypoints.docs_api

from .test_openapi import service_app

VOID = {"meta", "link"}
PARTS = Path(chatport.entrypoints.docs_api.__file__).parent / "templates"


class Page(HTMLParser):
    """What a page is made of; it fails where elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.words = ""
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.words += data

    def values(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return service_app().test_client()


@pytest.fixture(scope="module")
def answer(client: FlaskClient) -> TestResponse:
    return client.get("/docs")


@pytest.fixture(scope="module")
def page(answer: TestResponse) -> Page:
    return Page(answer.text)


def test_the_page_may_load_its_own_style_sheet_and_nothing_else(answer: TestResponse) -> None:
    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_has_no_script_no_inline_style_and_nothing_from_elsewhere(page: Page) -> None:
    assert not {"script", "style", "iframe", "object", "embed", "img", "form"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on") or name in {"style", "src"}}
    assert {link for link in page.values("href") if not link.startswith("#")} == {
        "docs.css",
        "openapi.json",
    }


def test_every_link_leads_to_a_place_on_the_page(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = {link[1:] for link in page.values("href") if link.startswith("#")}
    assert links <= set(ids)
    assert len(links) > 30


def test_every_route_field_header_and_code_is_on_the_page(client: FlaskClient, page: Page) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    for path, routes in document["paths"].items():
        for route in routes.values():
            assert path in page.words
            assert route["summary"].replace("`", "") in page.words
            assert route["description"].replace("`", "") in page.words
            assert route["operationId"] in page.values("id")
    names = [*document["components"]["headers"], *document["components"]["schemas"]]
    for name in (*names, *fields_of(document["components"]["schemas"].values())):
        assert name in page.words
    for code in ("rate_limited", "internal_error", "storage_full", "upstream_timeout"):
        assert code in page.words


def fields_of(schemas: object) -> Iterator[str]:
    assert hasattr(schemas, "__iter__")
    for schema in schemas:
        yield from schema.get("properties", {})


def test_a_request_can_be_copied_from_the_page(page: Page) -> None:
    assert (
        "curl http://127.0.0.1:8000/openai-completion -H 'Content-Type: application/json'"
        ' -d \'{"user_id": "ada", "prompt": "My name is Ada."}\''
    ) in page.words
    assert "curl -X DELETE http://127.0.0.1:8000/conversations/ada" in page.words
    assert "curl http://127.0.0.1:8000/v1/models/gpt-5-mini" in page.words
    assert (
        "curl -X PATCH http://127.0.0.1:8000/admin/keys/shop -H 'Authorization: Bearer cp_...'"
        " -H 'Content-Type: application/json'"
    ) in page.words
    assert (
        "curl http://127.0.0.1:8000/admin/usage -H 'Authorization: Bearer cp_...'\n" in page.words
    )


def test_each_route_says_whose_key_it_needs(client: FlaskClient, page: Page) -> None:
    document = client.get("/openapi.json").json
    assert document is not None
    needed = [
        route["security"] for routes in document["paths"].values() for route in routes.values()
    ]
    assert page.words.count("A key of an admin") == needed.count([{"bearer": []}]) == 9
    assert page.words.count("A key of a caller") == needed.count([{"bearer": []}, {}]) == 6
    assert needed.count([]) == 5
    assert page.values("href").count("#bearer") == 15
    assert "Authorization: Bearer cp_<id>_<secret>" in page.words


def test_the_style_sheet_is_ours_and_asks_for_nothing(client: FlaskClient) -> None:
    answer = client.get("/docs.css")
    assert answer.status_code == 200
    assert answer.content_type == "text/css; charset=utf-8"
    assert answer.text == (PARTS / "docs.css").read_text()
    assert "prefers-color-scheme: dark" in answer.text
    assert not [word for word in ("@import", "url(", "http") if word in answer.text]


def test_the_page_is_made_once(client: FlaskClient) -> None:
    assert client.get("/docs").data == client.get("/docs").data
