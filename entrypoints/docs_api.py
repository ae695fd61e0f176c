"""`/openapi.json` and the page that shows it: `/docs`, with a style sheet and no script."""

import re
import shlex
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, json, render_template
from markupsafe import Markup, escape

PAGE = Path(__file__).parent / "templates"
ONLY_OUR_STYLE = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
ADDRESS = "http://127.0.0.1:8000"
"""Where `chatport serve` listens if it is not told otherwise."""


def blueprint() -> Blueprint:
    """Return the routes; the document is made when it is asked for, once."""
    api = Blueprint("docs", __name__, template_folder=PAGE)

    @cache
    def described() -> dict[str, Any]:
        from .openapi import document  # noqa: PLC0415  # nobody may ever ask for it

        return document()

    @cache
    def encoded() -> str:
        return json.dumps(described()) + "\n"

    @cache
    def page() -> str:
        return render_template(
            "docs.html", api=described(), phrase=_phrase, prose=_prose, curl=_curl
        )

    @cache
    def style() -> bytes:
        return (PAGE / "docs.css").read_bytes()

    @api.get("/openapi.json")
    def openapi_json() -> Response:
        return Response(encoded(), mimetype="application/json")

    @api.get("/docs")
    def docs() -> Response:
        answer = Response(page(), mimetype="text/html")
        answer.headers["Content-Security-Policy"] = ONLY_OUR_STYLE
        return answer

    @api.get("/docs.css")
    def docs_css() -> Response:
        return Response(style(), mimetype="text/css")

    return api


def _phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase


def _prose(text: str) -> Markup:
    """Return a text with what stands between backticks marked as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped


def _curl(method: str, path: str, operation: dict[str, Any]) -> str:
    """Return a command that tries the route out."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            value = parameter["schema"]["examples"][0]
            path = path.replace(f"{{{parameter['name']}}}", value)
    has_body = "requestBody" in operation
    usual = "post" if has_body else "get"  # what curl takes by itself
    words = ["curl"] if method == usual else ["curl", "-X", method.upper()]
    words.append(ADDRESS + path)
    if operation["security"] == [{"bearer": []}]:
        words += ["-H", "Authorization: Bearer cp_..."]
    if has_body:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(example)]
    return shlex.join(words)
