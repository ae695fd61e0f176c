"""What strangers write into places where it might be taken for SQL, HTML, a header or a path.

Nothing of it is more than a text: it is stored as it came, or refused; nobody else's exchanges are
touched or shown; each request has its one line in the log; nobody is called who is named in it.
Formulas in CSV are in `test_cli_usage.py`, control characters on terminals in `test_cli_log.py`.
"""

import json
import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from werkzeug.test import TestResponse

from chatport.adapters import OpenAIGateway, PeeweeKeys, PeeweeStore, PeeweeUsage, ScriptedGateway
from chatport.domain import Role
from chatport.domain.text import is_storable
from chatport.entrypoints.access_log import JSONFormatter
from chatport.entrypoints.flask_app import create_app

from .callers import MODEL, Site, bearer
from .faults import KEY
from .upstream import Answer, running_upstream
from .wire import completion, json_http

SQL = (
    "'", '"', "''", "`", "\\'", "';", "' OR '1'='1", "' OR 1=1 --", "' OR 1=1 /*", "') OR ('a'='a",
    "x'; DROP TABLE exchange; --",
    "x'; DELETE FROM exchange WHERE 'a'='a", "x'; ATTACH 'y' AS z; --",
    "' UNION SELECT secret_hash FROM key --", "1; PRAGMA writable_schema=1", "?", "?1", ":caller",
    "@user", "$1", "%s", "%(user)s", "{0}", "{self.__class__}", "NULL", "0x41", "-1", "1e999",
    "admin'--", "%", "_", "%%", "a%' ESCAPE '\\", "$.a", "$[0]", "$..*", "rowid", "sqlite_master",
)  # fmt: skip  # a corpus
SEARCH = (
    '"', '""', '"a', 'a"b', "*", "a*", "*a", "^a", "-a", "--", "-", "+", "(", ")", "()",
    "NEAR(a b, 2)",
    "NEAR", "AND", "OR", "NOT", "a AND", "OR OR", "prompt:a", "reply : a", "{prompt reply}: a",
    "- prompt: a", "a NOT b", "a + b", "word(rank, 1)", "\\", "a;b", "a,b", "'", "|", "&", "a OR *",
)  # fmt: skip
LOGS = (
    'x\n{"level": "info", "logger": "chatport.access", "message": "request", "status": 200}',
    'x\r\n{"level": "error"}',
    '"}\n{"a": "',
    "x\u2028y\u2029z",
    "x\x85y\x0by\x0cz",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "%s %d %(message)s {record}",
    "${jndi:ldap://127.0.0.1/a}",
    "\u202egpj.exe",
)
PAGES = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "{% debug %}",
    "{{ config }}", "${7*7}", "#{7*7}", "</pre><h1>", "javascript:alert(1)", "=1+1", "@SUM(1)",
)  # fmt: skip
PATHS = (
    "..", ".", "../..", "../../etc/passwd", "..\\..\\x", "\\", "/etc/passwd", "//a", "a//b", "a/b",
    "C:\\x", "file:///etc/passwd", "a;b", "a?b=c", "a#b", "~", "con", "%00", "a\0b", "%2e%2e%2f",
    "%252e%252e%252f", ".git/config", "chatport.db", "\xff", "\ud83d", "\ufeff", "a" * 5_000,
)  # fmt: skip
CORPUS = tuple(dict.fromkeys((*SQL, *SEARCH, *LOGS, *PAGES, *PATHS)))
IN_PATHS = (*SQL[:12], *LOGS, *PAGES, *PATHS)
IN_NUMBERS = (*SQL, *LOGS)
IN_HEADERS = (
    *SQL[:9],
    *LOGS,
    *PAGES[:4],
    *PATHS[-6:],
    "a\r\nX-Injected: yes",
    "a\nX-Injected: yes",
    "a\rX-Injected: yes",
    "☃",
    "a\0b",
    "\x80",
)
SECRET = "what only the victim knows"


class Lines(logging.Handler):
    """The log, as it is written."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(JSONFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Target:
    """A service on a file, whose log and rows are looked at."""

    def __init__(self, path: Path, gateway: Any, log: Lines) -> None:
        self.path, self.log, self.asked = path, log, 0
        self.store = PeeweeStore(path)
        kept: Any = PeeweeKeys(self.store.session)
        self.site = Site(gateway=gateway, store=self.store, kept=kept)
        admin = replace(self.site.admin, usage=PeeweeUsage(self.store.session))
        app = create_app(
            self.site.service, dict, authenticate=self.site.doorkeeper.authenticate, admin=admin
        )
        self.client = app.test_client()
        self.admin = bearer(self.site.key("operator", Role.ADMIN))
        self.victim = bearer(self.site.key("victim"))
        self.attacker = bearer(self.site.key("attacker"))
        body = {"user_id": "ada", "prompt": SECRET}
        assert self.send("POST", "/openai-completion", self.victim, body=body).status_code == 200
        self.before = self.of_others()

    def send(
        self, method: str, path: str, headers: Any = None, *, body: Any = None, **more: Any
    ) -> TestResponse:
        """Send a request; it has an answer that is no failure of ours, and one line in the log."""
        if body is not None:
            more |= {"data": json.dumps(body), "content_type": "application/json"}
        response = self.client.open(path, method=method, headers=headers or self.attacker, **more)
        text = response.get_data(as_text=True)
        response.close()
        self.asked += 1
        assert response.status_code < 500, (path, more, text)
        assert "X-Injected" not in response.headers
        assert not any(re.search(r"[\r\n]", value) for value in response.headers.values())
        return response

    def of_others(self) -> list[str]:
        """Return the tables, and the rows of everybody but the attacker."""
        with closing(sqlite3.connect(self.path)) as database:
            shown = database.execute("SELECT sql FROM sqlite_master ORDER BY 1").fetchall()
            for table in ("exchange", "caller", "message_text"):
                named = "name" if table == "caller" else "caller"
                query = f"SELECT * FROM {table} WHERE {named} != 'attacker'"
                shown += database.execute(query).fetchall()
        return [str(row) for row in shown]

    def stored(self, column: str) -> str:
        """Return what the attacker's newest exchange holds."""
        query = f"SELECT {column} FROM exchange WHERE caller = 'attacker' ORDER BY id DESC"
        with closing(sqlite3.connect(self.path)) as database:
            return str(database.execute(query).fetchone()[0])

    def check(self) -> None:
        """Look whether others are untouched, and whether the log has its lines and no others."""
        assert self.of_others() == self.before
        assert all(line.isprintable() and line.isascii() for line in self.log.lines)
        records = [json.loads(line) for line in self.log.lines]
        assert {record["level"] for record in records} <= {"info", "warning"}
        requests = [record for record in records if record["logger"] == "chatport.access"]
        assert len(requests) == self.asked
        assert len({record["request_id"] for record in requests}) == self.asked


@pytest.fixture
def log() -> Iterator[Lines]:
    lines = Lines()
    logger = logging.getLogger("chatport")
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(lines)
    logger.setLevel(level)


@pytest.fixture
def target(tmp_path: Path, log: Lines) -> Iterator[Target]:
    target = Target(tmp_path / "chatport.db", ScriptedGateway("Hi", models=[MODEL]), log)
    with closing(target.store):
        yield target
        target.check()


def test_a_prompt_is_stored_as_it_came_or_refused(target: Target) -> None:
    for text in CORPUS:
        answer = target.send("POST", "/openai-completion", body={"prompt": text, "user_id": "eve"})
        assert answer.status_code == (200 if is_storable(text) else 400)
        if answer.status_code == 200:
            assert target.stored("prompt") == text
    shown = target.send("GET", "/conversations/eve?limit=200").json
    assert shown is not None
    assert [each["prompt"] for each in shown["exchanges"]] == [t for t in CORPUS if is_storable(t)]


def test_a_name_of_a_user_is_one_or_is_refused(target: Target) -> None:
    for text in CORPUS:
        answer = target.send("POST", "/openai-completion", body={"prompt": "x", "user_id": text})
        assert answer.status_code == (
            200 if re.fullmatch(r"[\w.@:-]{1,128}", text, re.ASCII) else 400
        )


def test_whatever_openais_wire_says_is_stored_as_it_came_or_refused(target: Target) -> None:
    for text in CORPUS:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": text, "name": text}],
            "metadata": {"k": text},
            "user": text,
        }
        answer = target.send("POST", "/v1/chat/completions", body=body)
        assert answer.status_code == (200 if is_storable(text) else 400)
        if answer.status_code == 200:
            id_ = answer.headers["X-Request-Id"]
            shown = target.send("GET", f"/admin/log/{id_}", target.admin).json
            assert shown is not None
            assert shown["request"] == body


def test_names_of_fields_and_models_are_texts_too(target: Target) -> None:
    messages = [{"role": "user", "content": "x"}]
    for text in CORPUS:
        named = {"model": text, "messages": messages, text: text}
        target.send("POST", "/v1/chat/completions", body=named)
        target.send("POST", "/openai-completion", body={"prompt": "x", text: text})
        target.send("POST", "/openai-completion", data=text.encode(errors="surrogatepass"))


def test_a_path_leads_nowhere_else(target: Target) -> None:
    for text in IN_PATHS:
        raw = quote(text.encode(errors="surrogatepass"), safe="")
        for path in ("/conversations", "/v1/models", ""):
            for tail in (raw, text.encode(errors="surrogatepass").decode("latin-1")):
                answer = target.send("GET", f"{path}/{tail}")
                assert SECRET not in answer.text
                assert "root:" not in answer.text
        target.send("DELETE", f"/conversations/{raw}")
        for method, path in (
            ("GET", f"/admin/log/{raw}"),
            ("GET", f"/admin/keys/{raw}"),
            ("DELETE", f"/admin/keys/{raw}"),
        ):
            if text not in {".", ".."}:
                answer = target.send(method, path, target.admin)
                assert answer.status_code in {400, 404, 405}


def test_a_filter_shows_what_it_names_and_nothing_else(target: Target) -> None:
    for text in CORPUS:
        for where in ("caller", "user"):
            query = {where: text.encode(errors="surrogatepass")}
            answer = target.send("GET", "/admin/log", target.admin, query_string=query)
            assert SECRET not in answer.text
        query = {"caller": b"attacker", "text": text.encode(errors="surrogatepass")}
        answer = target.send("GET", "/admin/log", target.admin, query_string=query)
        assert answer.status_code in {200, 400}
        assert SECRET not in answer.text
        query = {"caller": text.encode(errors="surrogatepass")}
        usage = target.send("GET", "/admin/usage", target.admin, query_string=query)
        assert "victim" not in usage.text


def test_a_number_in_a_query_is_one_or_is_refused(target: Target) -> None:
    for text in IN_NUMBERS:
        raw = text.encode(errors="surrogatepass")
        for path, name in (
            ("/conversations/ada", "before"),
            ("/admin/log", "before"),
            ("/admin/log", "since"),
            ("/admin/log", "state"),
            ("/admin/usage", "by"),
            ("/admin/usage", "offset"),
            ("/admin/keys", "after"),
        ):
            headers = target.admin if path.startswith("/admin") else target.attacker
            answer = target.send("GET", path, headers, query_string={name: raw})
            assert answer.status_code in {200, 400}
            assert answer.status_code == 400 or name == "after"


def test_a_caller_has_a_name_and_limits_or_is_not_made(target: Target) -> None:
    for text in CORPUS:
        for body in (
            {"name": text},
            {"name": "made", "limits": text},
            {"name": "made", "models": [text]},
            {"name": "made", "role": text},
        ):
            if "models" in body or re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", text, re.ASCII):
                continue  # it is a good one
            answer = target.send("POST", "/admin/keys", target.admin, body=body)
            assert answer.status_code == 400


@pytest.mark.parametrize(
    "name",
    [
        "HTTP_AUTHORIZATION",
        "HTTP_IDEMPOTENCY_KEY",
        "HTTP_X_REQUEST_ID",
        "HTTP_X_FORWARDED_FOR",
        "HTTP_USER_AGENT",
        "HTTP_COOKIE",
        "HTTP_ACCEPT",
        "HTTP_HOST",
        "HTTP_X_FORWARDED_HOST",
        "HTTP_ORIGIN",
        "CONTENT_TYPE",
        "QUERY_STRING",
        "HTTP_X_HTTP_METHOD_OVERRIDE",
    ],
)
def test_a_header_is_no_more_than_a_text(target: Target, name: str) -> None:
    for text in IN_HEADERS:
        raw = text.encode(errors="surrogatepass").decode("latin-1")  # as WSGI has it
        answer = target.send(
            "POST",
            "/openai-completion",
            body={"prompt": "x"},
            environ_overrides={name: raw},
        )
        assert text not in answer.headers.get("X-Request-Id", "")
        assert SECRET not in answer.text
        if name == "HTTP_AUTHORIZATION":
            assert answer.status_code in {401, 429}  # after many, they are too many


def test_nobody_is_called_whom_a_request_names(tmp_path: Path, log: Lines) -> None:
    with ExitStack() as stack:
        provider, elsewhere = (stack.enter_context(running_upstream()) for _ in range(2))
        provider.plays(Answer(json_http("200 OK", {**completion(), "data": [MODEL.facts]})))
        url, host = elsewhere.url, elsewhere.host
        gateway = stack.enter_context(closing(OpenAIGateway(api_key=KEY, base_url=provider.url)))
        target = Target(tmp_path / "chatport.db", gateway, log)
        stack.callback(target.store.close)
        named = (
            *("base_url", "api_base", "api_url", "endpoint", "url", "host", "proxy", "webhook"),
            *("callback_url", "organization", "api_key", "extra_headers", "extra_body", "$ref"),
        )
        image = {"type": "image_url", "image_url": {"url": f"{url}/cat.png"}}
        tool = {"type": "mcp", "server_url": url, "server_label": "x"}
        messages = [{"role": "user", "content": [{"type": "text", "text": url}, image]}]
        bodies = [{"model": "m", "messages": messages, name: url} for name in named]
        bodies += [{"model": url, "messages": messages, "tools": [tool], "user": url}]
        headers = {"Host": host, "X-Forwarded-Host": host, "Forwarded": f"host={host}"}
        headers |= {"Origin": url, "Referer": url, "X-Base-Url": url, "OpenAI-Base-Url": url}
        headers |= target.attacker
        answers = Counter(
            target.send("POST", "/v1/chat/completions", headers, body=body).status_code
            for body in bodies
        )
        assert set(answers) == {200, 400}  # a field that moves the call elsewhere is refused
        assert target.send("GET", f"/v1/models/{quote(url, safe='')}").status_code == 404
        target.send("POST", f"http://{host}/openai-completion", body={"prompt": url})
        calls = Counter(call.line for call in provider.received)
        posts = 2 + answers[200]  # the victim's, and the one with an absolute URL
        assert calls.pop("POST /v1/chat/completions HTTP/1.1") == posts
        assert set(calls) == {"GET /v1/models HTTP/1.1"}
        assert elsewhere.connections == 0
        assert {call.headers["Host"] for call in provider.received} == {provider.host}
        target.check()
