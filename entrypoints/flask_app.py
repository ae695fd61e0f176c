"""The Flask application: what is the same for every route."""

import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, abort, g, json, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.middleware.proxy_fix import ProxyFix

from chatport.domain.callers import ANONYMOUS, Caller, Role
from chatport.domain.chat import ChatService
from chatport.domain.errors import InvalidApiKey, NotPermitted
from chatport.domain.text import is_storable

from . import admin_api, completion_api, conversations_api, docs_api, openai_api, ops_api
from .access_log import AccessLine
from .admin import Admin
from .faults import BadRequest, fault_of, openai_answer, seed_body
from .idempotency import mark_replayed
from .limit_headers import limit_headers
from .overload import Overload
from .request_body import MAX_BODY_BYTES, body_bytes
from .request_query import check_query
from .routes import COMPLETIONS, Access, access_of

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""On every answer: nothing here is a page, and nothing may be kept by a browser or a proxy."""


HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.~%!$&'()*+,;=-]*)(?::\d*)?", re.ASCII)
"""RFC 9110, section 7.2, and RFC 3986, section 3.2.2: a name or an address, and a port."""

Authenticate = Callable[[str | None, str], Caller]
"""Takes the header Authorization, if there is one, and the address; returns who is asking."""


def everybody(_authorization: str | None, _address: str) -> Caller:
    """Let everybody in: for tests, and for hosts that keep strangers out themselves."""
    return ANONYMOUS


class _JSON(DefaultJSONProvider):
    """Text as it is, and keys in the order in which we write them."""

    ensure_ascii = False
    sort_keys = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        """Return the JSON; half a surrogate pair, which a provider may have sent, as an escape."""
        text = super().dumps(obj, **kwargs)
        return text if is_storable(text) else super().dumps(obj, ensure_ascii=True, **kwargs)


class _App(Flask):
    """Answers also what a server ends; Flask knows of no failure but an Exception."""

    stop: tuple[type[BaseException], ...] = ()

    def full_dispatch_request(self) -> Response:
        """Return the answer to the current request."""
        try:
            return super().full_dispatch_request()
        except self.stop as error:
            return self.finalize_request(_answer_error(error))


def create_app(
    service: ChatService,
    ready: Callable[[], dict[str, str]],
    *,
    authenticate: Authenticate = everybody,
    admin: Admin | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    proxy_hops: int = 0,
    overload: Overload | None = None,
    stop: tuple[type[BaseException], ...] = (),
) -> Flask:
    """Return the application around a service.

    Args:
        service: Answers the prompts.
        ready: Says of each part that it is `ok`, or raises a ChatportError.
        authenticate: Says who is asking, or raises a ChatportError.
        admin: What the routes for admins work with; None for none of these routes.
        max_body_bytes: The largest request.
        proxy_hops: How many proxies in front are trusted to tell a client's address.
        overload: Counts the completions that are being answered; None for as many as come.
        stop: What the server raises in a request that it ends.
    """
    app = _App(__name__, static_folder=None)
    app.stop = stop
    app.config.update(MAX_CONTENT_LENGTH=max_body_bytes, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False
    app.json = _JSON(app)
    if proxy_hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxy_hops, x_proto=0)  # type: ignore[method-assign]  # Flask's documented way
    app.before_request(partial(_receive, authenticate, overload))
    app.after_request(_finish)
    app.register_error_handler(Exception, _answer_error)
    app.register_blueprint(completion_api.blueprint(service))
    app.register_blueprint(openai_api.blueprint(service))
    app.register_blueprint(conversations_api.blueprint(service))
    if admin is not None:
        app.register_blueprint(admin_api.blueprint(admin))
    app.register_blueprint(ops_api.blueprint(ready))
    app.register_blueprint(docs_api.blueprint())
    return app


def _receive(authenticate: Authenticate, overload: Overload | None) -> None:
    """Refuse what can be refused, the cheapest first, and read what is asked of a model."""
    g.line = AccessLine(secrets.token_hex(16))
    g.closing = ExitStack()  # the last first, and each whatever becomes of the others
    g.closing.callback(g.line.write)
    _check_host(request.environ)
    check_query()
    if request.environ.get("PATH_INFO", "").startswith("//"):
        abort(HTTPStatus.NOT_FOUND)  # werkzeug would take it for one slash; a proxy's rules do not
    rule = request.url_rule
    if rule is None:
        return  # there is no such route: Flask says so in a moment
    counted = overload if rule.rule in COMPLETIONS else None
    if counted is not None:
        counted.check()
    _let_in(authenticate, access_of(request.method, rule.rule))
    if rule.rule in COMPLETIONS:
        g.body = body_bytes()  # all of it: who is still sending is not being answered yet
    if counted is not None:
        counted.enter()
        g.closing.callback(counted.leave)


def _check_host(environ: Mapping[str, str]) -> None:
    host = environ.get("HTTP_HOST")
    if host is None and environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
        raise BadRequest("bad_request", "The request names no Host, as HTTP/1.1 asks for.")
    if not HOST.fullmatch(host or ""):
        raise BadRequest("bad_request", "The Host of the request is none.")


def _let_in(authenticate: Authenticate, access: Access) -> None:
    """Find out who is asking, and whether that is for them."""
    if access is Access.OPEN:
        return
    caller = authenticate(request.headers.get("Authorization"), request.remote_addr or "")
    g.caller = caller
    g.line.caller = caller.name
    if access is Access.ADMIN and caller == ANONYMOUS:
        raise InvalidApiKey
    if (access is Access.ADMIN) != (caller.role is Role.ADMIN):
        raise NotPermitted


def _finish(response: Response) -> Response:
    response.call_on_close(g.closing.close)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = g.line.request_id
    g.line.describe(request, response.status_code)
    return response


def _answer_error(error: BaseException) -> Response:
    fault = fault_of(error)
    g.line.code = fault.code
    g.line.request_id = getattr(error, "exchange_id", None) or g.line.request_id
    response = Response(mimetype="application/json")
    if request.path == completion_api.PATH:
        body = json.dumps(seed_body(fault, g.line.request_id))
        response.status_code, response.data = fault.status, f"{body}\n".encode()
    else:
        response.status_code, response.data = openai_answer(error, fault)
    response.headers.update(fault.headers)
    response.headers.update(limit_headers(getattr(error, "allowances", ())))
    mark_replayed(response, replayed=getattr(error, "replayed", False))
    return response
