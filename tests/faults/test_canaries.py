"""Secrets stay where they belong: whatever fails, and wherever one looks afterwards.

Each secret of a request is a canary. All requests, in front of a provider that fails in each known
way and quotes them back, and on parts that break in odd ways, leave none of them in a log, an
error, an answer to others, a file or a process, except where the list `MEANT` says so.
"""

import base64
import http.client
import json
import logging
import os
import re
import signal
import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import peewee
import pytest
from e2e.conftest import Provider as LiveProvider
from e2e.conftest import Service, eventually
from flask import Flask
from werkzeug.test import TestResponse

from chatport.adapters import (
    LimitsCounter,
    OpenAIGateway,
    PeeweeKeys,
    PeeweeStore,
    PeeweeUsage,
    ScriptedGateway,
    random_id,
    random_key_id,
    random_secret,
)
from chatport.domain import Caller, ChatService, Role, Upstreams
from chatport.domain.doorkeeper import Doorkeeper
from chatport.domain.keys import Keys
from chatport.domain.limits import RateLimiter
from chatport.domain.model import CompletionRequest
from chatport.domain.rules import parse_limits
from chatport.domain.upstreams import Upstream as Provider
from chatport.entrypoints.access_log import QUIET, JSONFormatter
from chatport.entrypoints.admin import Admin
from chatport.entrypoints.flask_app import create_app
from chatport.entrypoints.settings import Settings, SettingsError, printable
from chatport.entrypoints.wiring import condition
from integration.callers import MODEL
from integration.faults import KEY, PROMPT
from integration.relaying import PATH as V1
from integration.relaying import SEED
from integration.upstream import running_upstream
from integration.wire import chunks, completion, finished, json_http, said

from .calls import Patient
from .modes import Half, Mode, Place, both, good
from .places import address
from .test_modes import MODES

THREADS = 12
ANSWER = "canary-answer-77d2"
CANARIES = {
    "provider key": KEY.removeprefix("sk-"),
    "prompt": PROMPT.partition(":")[0],
    "answer": ANSWER,
    "cookie": "canary-cookie-1f09",
    "header": "canary-header-94ab",
    "query": "canary-query-c3d1",
    "field name": "canary-name-5e77",
    "field value": "canary-value-aa10",
    "idempotency key": "canary-once-6b2c",
    "metadata": "canary-metadata-d41f",
    "organisation": "canary-org-0e9b",
}
HEADERS = {
    "Cookie": f"session={CANARIES['cookie']}",
    "X-Request-Id": CANARIES["header"],
    "X-Forwarded-For": CANARIES["header"],
    "User-Agent": CANARIES["header"],
    "Referer": f"https://{CANARIES['header']}/",
    "Proxy-Authorization": f"Basic {CANARIES['header']}",
    "X-Api-Key": CANARIES["header"],
    "OpenAI-Organization": CANARIES["organisation"],
}
OF_TEXT = {"prompt", "answer", "field name", "field value", "metadata"}
"""What a request and its answer say, which the log of exchanges is there to keep."""

MEANT = {
    "a file": OF_TEXT | {"idempotency key"},
    "an answer of OpenAI's wire": OF_TEXT,
}
numbers = count()


def forms(canary: str) -> Iterator[bytes]:
    """Yield what a secret looks like, as it is and in the usual codings."""
    raw = canary.encode()
    yield raw
    yield raw.hex().encode()
    yield quote(canary, safe="").encode()
    yield canary.encode("utf-16-le")
    for shift in range(3):  # base64 of three bytes is four letters, wherever the secret begins
        whole = base64.b64encode(b"\0" * shift + raw)
        yield whole[4 if shift else 0 : -4]


class Scanner:
    """Knows the secrets, and looks for them."""

    def __init__(self, canaries: Mapping[str, str]) -> None:
        self._forms = {name: tuple(forms(canary)) for name, canary in canaries.items()}

    def found(self, said: str | bytes, meant: set[str] | None = None) -> set[str]:
        """Return the names of the secrets in a text, but of those that are meant to be there."""
        data = said.encode(errors="surrogatepass") if isinstance(said, str) else said
        return {
            name
            for name, looks in self._forms.items()
            if name not in (meant or ()) and any(look in data for look in looks)
        }


class Records(logging.Handler):
    """All that anybody logs, in chatport's lines and in those of Python's own formatter."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []
        self._formatters = (JSONFormatter(), logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [formatter.format(record) for formatter in self._formatters]


def is_quiet(name: str) -> bool:
    """Return whether `configure_logging` lets a logger write warnings and errors only."""
    return any(name == each or name.startswith(f"{each}.") for each in QUIET)


@contextmanager
def all_logged() -> Iterator[Records]:
    """Log everything that `configure_logging` does not keep quiet, and put all back."""
    records = Records()
    names = [*logging.root.manager.loggerDict, "openai", "httpx2", "httpcore2", "gunicorn.error"]
    loggers = [logging.root, *map(logging.getLogger, names)]
    before = [(logger, logger.level, logger.propagate, logger.disabled) for logger in loggers]
    handlers, logging.root.handlers = logging.root.handlers, [records]
    for logger in loggers:
        quiet = logging.WARNING if logger.name in QUIET else logging.NOTSET
        logger.setLevel(quiet if is_quiet(logger.name) else logging.DEBUG)
        logger.propagate, logger.disabled = True, False
    try:
        yield records
    finally:
        logging.root.handlers = handlers
        for logger, level, propagate, disabled in before:
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled


class Breakable:
    """Stands before a port; whatever is asked of it fails once `error` is set."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self.error: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        return partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        return method(*arguments, **options)


class Current:
    """The gateway that a thread has chosen for itself."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def choose(self, gateway: Any) -> None:
        self._of_thread.gateway = gateway

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of_thread.gateway, name)


class Watched:
    """The way to the provider; whatever error comes out of it is looked into, and goes on."""

    def __init__(self, gateway: Any, see: Callable[[BaseException], None]) -> None:
        self._gateway, self._see = gateway, see

    def complete(self, request: CompletionRequest) -> Any:
        with self._watching():
            return self._gateway.complete(request)

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Any]:
        with self._watching(), self._gateway.stream(request) as pieces:
            yield pieces

    def models(self) -> Any:
        with self._watching():
            return self._gateway.models()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._see(error)
            raise


@dataclass
class World:
    """A service on a file, with keys, whose parts can break; and what was found of it."""

    path: Path
    leaks: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = PeeweeStore(self.path)
        self.clock = Patient()
        self.parts: dict[str, Any] = {
            "store": Breakable(self.store),
            "keys": Breakable(PeeweeKeys(self.store.session)),
            "usage": Breakable(PeeweeUsage(self.store.session)),
            "counter": Breakable(LimitsCounter()),
        }
        issuer = self.admin().keys
        self.caller = issuer.create(Caller(name="shop", role=Role.CALLER))
        self.operator = issuer.create(Caller(name="operator", role=Role.ADMIN))
        secrets = {"caller's key": self.caller[20:], "admin's key": self.operator[20:]}
        self.scanner = Scanner({**CANARIES, **secrets})

    def admin(self) -> Admin:
        keys = Keys(
            self.parts["keys"],
            clock=self.clock,
            new_id=random_key_id,
            new_secret=random_secret,
        )
        store, usage = self.parts["store"], self.parts["usage"]
        return Admin(keys=keys, usage=usage, store=store, clock=self.clock)

    def app(self, gateway: Any) -> Flask:
        """Return an application in front of a gateway."""
        store, counter = self.parts["store"], self.parts["counter"]
        service = ChatService(
            store=store,
            gateway=gateway,
            clock=self.clock,
            new_id=random_id,
            model="m",
            limiter=RateLimiter(counter, total=list(parse_limits("100000/second"))),
        )
        doorkeeper = Doorkeeper(
            self.parts["keys"],
            counter=counter,
            clock=self.clock,
            open_without_keys=False,
            refused=store.count_refusal,
        )
        return create_app(
            service,
            partial(condition, store, lambda: "ok"),
            authenticate=doorkeeper.authenticate,
            admin=self.admin(),
        )

    def see(self, where: str, said: str | bytes, meant: set[str] | None = None) -> None:
        """Look for secrets, and remember where there were some."""
        self.leaks += [f"{name} in {where}" for name in self.scanner.found(said, meant)]

    def see_answer(self, where: str, answer: TestResponse, meant: set[str] | None = None) -> None:
        data = answer.get_data()
        answer.close()
        self.see(f"the answer of {where}", data, meant)
        self.see(f"the headers of {where}", str(answer.headers))

    def see_error(self, where: str, error: BaseException) -> None:
        """Look into an error and what it carries."""
        if error.__cause__ is not None or error.__context__ is not None:
            self.leaks.append(f"what came before it, in the error of {where}")
        notes = getattr(error, "__notes__", [])
        said = [repr(error), str(error), repr(error.args), repr(vars(error)), *notes]
        self.see(f"the error of {where}", "\n".join(said), OF_TEXT)  # of what is passed on
        self.crossed += self.variables(where, error)

    def variables(self, where: str, error: BaseException) -> list[str]:
        """Return the variables with keys in the frames that an error crossed."""
        frames = traceback.TracebackException.from_exception(
            error, capture_locals=True, lookup_lines=False
        )
        return [
            f"{name} of {frame.name}, {where}"
            for frame in frames.stack
            for name, value in (frame.locals or {}).items()
            if self.scanner.found(value, OF_TEXT)
        ]

    def see_records(self, records: Records) -> None:
        if self.scanner.found("\n".join(records.lines)):
            for line in records.lines:
                self.see(f"the log: {line}", line)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.path.parent.iterdir())}

    def ask(self, app: Flask, method: str, path: str, body: Any = None, key: str = "") -> Any:
        """Send a request with all canaries."""
        once = {"Idempotency-Key": f"{CANARIES['idempotency key']}-{next(numbers)}"}
        headers = {**HEADERS, **once, "Authorization": f"Bearer {key or self.caller}"}
        query = f"api_key={CANARIES['query']}" if body is not None else ""
        return app.test_client().open(
            path, method=method, json=body, headers=headers, query_string=query
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "chatport.db")
    with closing(world.store):
        yield world


def seed(*, stream: bool) -> dict[str, Any]:
    return {"user_id": f"u{next(numbers)}", "prompt": PROMPT, "stream": stream}


def relayed(*, stream: bool) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "stream": stream,
        "metadata": {"k": CANARIES["metadata"]},
        CANARIES["field name"]: CANARIES["field value"],
    }


def all_said() -> str:
    """Return a text with all the secrets of a request."""
    return f"{KEY} {PROMPT} " + " ".join([*CANARIES.values(), *HEADERS.values()])


SPEAKING = (
    both(
        "answers, and names the organisation",
        json_http(
            "200 OK",
            completion(message={"content": ANSWER}),
            f"openai-organization: {CANARIES['organisation']}",
            f"Set-Cookie: a={CANARIES['organisation']}",
        ),
        good(),
    ),
    Mode(
        name="breaks after an answer has begun",
        plain=Half(script=(both("", b"{", good()).plain.script[0],), ending=good()),
        stream=Half(
            script=(
                both("", chunks(said(ANSWER), b"data: {", finished(1)), good()).plain.script[0],
            ),
            ending=good(),
        ),
    ),
    *(
        both(
            f"says {status} with a key that it has masked",
            json_http(
                f"{status} No",
                {"error": {"message": f"Incorrect API key: {KEY[:8]}***{KEY[-4:]} {KEY}"}},
                f"openai-organization: {CANARIES['organisation']}",
                f"x-ratelimit-reset-requests: {CANARIES['organisation']}",
            ),
            good(),
        )
        for status in (400, 401, 404, 429, 500)
    ),
)


VERBATIM = {"counts in words"}
"""A good answer that holds the key where nobody reads: the wire passes it on as it is."""


def ask_in_all_ways(world: World, app: Flask, chosen: Current, mode: Mode) -> None:
    """Ask the failing provider by each route that asks it."""
    with ExitStack() as stack:
        upstream = stack.enter_context(running_upstream())
        url = stack.enter_context(address(mode.place, upstream))
        gateway = OpenAIGateway(api_key=KEY, base_url=url, timeout_seconds=mode.timeout_seconds)
        stack.callback(gateway.close)
        watched = Watched(gateway, partial(world.see_error, mode.name))
        provider = Provider(name="1", gateway=watched)
        chosen.choose(Upstreams([provider], world.clock, total_seconds=mode.timeout_seconds))
        for stream, half in ((False, mode.plain), (True, mode.stream)):
            upstream.plays(*half.script)
            where = f"{mode.name}, stream={stream}, "
            answer = world.ask(app, "POST", SEED, seed(stream=stream))
            world.see_answer(where + SEED, answer, OF_TEXT if answer.status_code == 200 else None)
            upstream.plays(*half.script)
            answer = world.ask(app, "POST", V1, relayed(stream=stream))
            meant = MEANT["an answer of OpenAI's wire"]
            if mode.name in VERBATIM:
                meant = meant | {"provider key"}
            world.see_answer(where + V1, answer, meant)
        upstream.plays(*mode.plain.script)
        for path in ("/v1/models", f"/v1/models/{CANARIES['query']}"):
            world.see_answer(f"{mode.name}, {path}", world.ask(app, "GET", path))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a world in which a provider has failed in all known ways."""
    world = World(tmp_path_factory.mktemp("swept") / "chatport.db")
    alone = [mode for mode in MODES if mode.place is not Place.HERE]  # these replace functions
    together = [*SPEAKING, *(mode for mode in MODES if mode.place is Place.HERE)]
    chosen = Current()
    ask = partial(ask_in_all_ways, world, world.app(chosen), chosen)
    with closing(world.store), all_logged() as records:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(ask, together))
        for mode in alone:
            ask(mode)
        world.see_records(records)
        yield world


@pytest.mark.long
def test_no_way_in_which_a_provider_fails_makes_anybody_tell_a_secret(swept: World) -> None:
    for name, data in swept.files().items():
        swept.see(f"the file {name}", data, MEANT["a file"])
    assert swept.leaks == []
    assert swept.crossed == []  # no frame either that an error of the provider crosses


class Odd(Exception):
    """An error that says all it knows, in each way in which an error can."""

    def __init__(self) -> None:
        super().__init__(all_said())
        self.prompt = all_said()
        self.add_note(all_said())

    def __repr__(self) -> str:
        return all_said()


def chained() -> Exception:
    """Return an error with a cause."""
    error = RuntimeError(all_said())
    error.__cause__ = ValueError(all_said())
    return error


ODD_ERRORS: tuple[Callable[[], BaseException], ...] = (
    Odd,
    chained,
    lambda: OSError(28, all_said(), all_said()),
    lambda: UnicodeEncodeError("utf-8", all_said(), 0, 1, all_said()),
    lambda: peewee.OperationalError(all_said()),
    lambda: sqlite3.DatabaseError(all_said()),
    lambda: ExceptionGroup(all_said(), [ValueError(all_said())]),
)
BODIES: dict[str, Any] = {
    SEED: lambda: seed(stream=False),
    V1: lambda: relayed(stream=False),
    "/admin/keys": lambda: {"name": f"n{next(numbers)}"},
    "/admin/keys/<name>": lambda: {"limits": "5/minute"},
    "/admin/keys/<name>/rotate": lambda: {"overlap_seconds": 5},
}


KEPT = (SEED, V1, "/conversations", "/admin/log")
"""Where those who may read a text get it."""


def meant_in(where: str, answer: TestResponse) -> set[str]:
    """Return the secrets that an answer is there to tell."""
    _, rule = where.split(" ")
    kept = OF_TEXT | {"idempotency key"} if rule.startswith("/admin/log") else OF_TEXT
    return kept if rule.startswith(KEPT) and answer.status_code == 200 else set()


def requests_to_all_routes(world: World, app: Flask) -> Iterator[tuple[str, TestResponse]]:
    """Ask each route of the application by each of its methods, and one that does not exist."""
    known = list(app.url_map.iter_rules())
    rules = [(rule.rule, method) for rule in known for method in rule.methods or ()]
    assert len(rules) > 15
    values = {"<user_id>": "ada", "<name>": "nobody", "<exchange_id>": "0" * 32}
    for rule, method in [*sorted(rules), ("/metrics", "GET"), (f"/{CANARIES['query']}", "GET")]:
        path = re.sub("<[^>]+>", lambda found: values.get(found[0], "m"), rule)
        body = BODIES[rule]() if method in {"POST", "PATCH"} else None
        key = world.operator if rule.startswith("/admin") else world.caller
        yield f"{method} {rule}", world.ask(app, method, path, body, key)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("broken") / "chatport.db")
    with closing(world.store):
        yield world


@pytest.mark.parametrize("part", ["store", "keys", "usage", "counter", "gateway"])
def test_no_part_that_breaks_in_an_odd_way_tells_a_secret(
    broken: World, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = {**broken.parts, "gateway": Breakable(ScriptedGateway(ANSWER))}
    app = broken.app(parts["gateway"])
    statuses = Counter[int]()
    with all_logged() as records:
        for error in ODD_ERRORS:
            parts[part].error = error()
            for where, answer in requests_to_all_routes(broken, app):
                broken.see_answer(f"{where}, {error}", answer, meant_in(where, answer))
                statuses[answer.status_code] += 1
        parts[part].error = None
        broken.see_records(records)
    broken.see("the standard streams", "".join(capfd.readouterr()))
    assert broken.leaks == []
    assert statuses[500] + statuses[502] + statuses[503] >= len(ODD_ERRORS)


def test_no_route_tells_what_is_not_asked_for(world: World) -> None:
    app = world.app(ScriptedGateway(ANSWER, models=[MODEL]))
    with all_logged() as records:
        for where, answer in requests_to_all_routes(world, app):
            world.see_answer(where, answer, meant_in(where, answer))
            assert answer.status_code < 500
        world.see_records(records)
    for name, data in world.files().items():
        world.see(f"the file {name}", data, MEANT["a file"])
    assert world.leaks == []


def test_no_settings_and_no_error_about_them_show_a_key() -> None:
    scanner = Scanner({"key": "canary51a9c0ffee"})
    key = "sk-canary51a9c0ffee"
    several = "https://a.example/v1 A_KEY, https://b.example/v1 B_KEY"
    good_ones = [
        {"OPENAI_API_KEY": key},
        {"CHATPORT_UPSTREAMS": several, "A_KEY": key, "B_KEY": key},
    ]
    for variables in good_ones:
        chosen = Settings.from_mapping(variables)
        shown = f"{chosen!r} {chosen} {vars_of(chosen)} {printable(variables)}"
        assert scanner.found(shown) == set()
    for variables in (
        {"OPENAI_API_KEY": f"{key} {key}"},
        {"OPENAI_API_KEY": f"{key}\n"},
        {"OPENAI_BASE_URL": f"https://me:{key}@a.example/v1"},
        {"CHATPORT_UPSTREAMS": f"https://a.example/v1 {key}"},
        {"CHATPORT_UPSTREAMS": "https://a.example/v1 A_KEY", "A_KEY": f"{key} {key}"},
    ):
        with pytest.raises(SettingsError) as raised:
            Settings.from_mapping(variables)
        error = raised.value
        assert scanner.found(f"{error!r} {error} {error.problems} {printable(variables)}") == set()


@pytest.fixture
def live(world: World) -> Iterator[Service]:
    """Return a live service on the world's file, in front of a provider that can wait."""
    world.store.close()
    with LiveProvider() as provider, ExitStack() as stack:
        thread = threading.Thread(target=provider.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(provider.shutdown)
        stack.callback(provider.gate.set)
        settings = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": provider.url,
            "PYTHONFAULTHANDLER": "1",
        }
        service = Service(world.path.parent, settings, "--workers", "1", anew=True)
        service.provider = provider  # type: ignore[attr-defined]
        stack.callback(end, service)
        yield service


def end(service: Service) -> None:
    if service.process.poll() is None:
        service.kill()


def send(world: World, service: Service, method: str, path: str, body: Any = None) -> None:
    """Send a request with all canaries to a live service, and look through the answer."""
    once = {"Idempotency-Key": f"{CANARIES['idempotency key']}-{next(numbers)}"}
    key = world.operator if path.startswith("/admin") else world.caller
    headers = {
        **HEADERS,
        **once,
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
    }
    with closing(service.connect()) as connection:
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            said = response.read() + str(response.getheaders()).encode()
        except (OSError, http.client.HTTPException):
            return  # the worker died, as it was told
    meant = OF_TEXT | {"idempotency key"} if path.startswith(KEPT) else set()
    world.see(f"{method} {path}", said, meant)


def test_no_process_shows_a_secret(world: World, live: Any) -> None:
    for stream in (False, True):
        send(world, live, "POST", SEED, seed(stream=stream))
        send(world, live, "POST", V1, relayed(stream=stream))
    for path in ("/readyz", "/openapi.json", "/docs", "/metrics", "/admin/log", "/admin/keys"):
        send(world, live, "GET", path)
    live.provider.gate.clear()
    waiting = threading.Thread(target=send, args=(world, live, "POST", SEED, seed(stream=False)))
    waiting.start()
    eventually(lambda: len(live.provider.prompts) >= 5)
    master = live.process.pid
    [worker] = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    for pid in (master, worker):
        for name in ("cmdline", "comm", "status", "maps"):
            world.see(f"{name} of a process", Path(f"/proc/{pid}/{name}").read_bytes())
        links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
        world.see("the names of open files", "\n".join(links))
    os.kill(int(worker), signal.SIGSEGV)
    waiting.join()
    live.provider.gate.set()
    assert live.stop() == 0
    said = live.log.read_text()
    assert "Fatal Python error: Segmentation fault" in said
    world.see("the log", said)
    for name, data in world.files().items():
        if name.startswith(world.path.name):
            world.see(f"the file {name}", data, MEANT["a file"])
    assert world.leaks == []


def vars_of(settings: Settings) -> dict[str, Any]:
    return {each.name: getattr(settings, each.name) for each in fields(settings)}


def divide(secret: str) -> float:
    return len(secret) / 0


def test_a_secret_that_leaked_would_be_found(world: World) -> None:
    """A search that finds nothing proves nothing, unless it would find something."""
    for name, canary in CANARIES.items():
        for look in forms(f"some words and {canary} and more"):
            assert world.scanner.found(b"before" + look + b"after") >= {name}
    with all_logged() as records:
        for each in ("chatport", "flask.app", "gunicorn.error", "anybody", "werkzeug"):
            logging.getLogger(each).debug("at %s", KEY)
        logging.getLogger("openai").warning("it said %s", KEY)
        logging.getLogger("openai").debug("which nobody writes %s", KEY)
        world.see_records(records)
    assert len(world.leaks) == 2 * 6
    world.leaks.clear()
    (world.path.parent / "core").write_bytes(b"\0\1" + world.caller.encode())
    found = [world.scanner.found(data) for data in world.files().values()]
    assert {"caller's key"} in found
    with pytest.raises(ZeroDivisionError) as raised:
        divide(KEY)
    assert any("secret of divide" in each for each in world.variables("here", raised.value))
    app = Flask("leaky")
    app.get("/")(lambda: (f"it is {KEY}", {"X-Leak": CANARIES["prompt"]}))
    world.see_answer("/", app.test_client().get("/"))
    assert {leak.partition(" in ")[0] for leak in world.leaks} == {"provider key", "prompt"}
