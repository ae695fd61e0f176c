"""The OpenAPI document, made from the table of routes and the records."""

import inspect
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from chatport.domain.errors import ChatportError

from .documented_headers import HEADERS, LIMIT_HEADERS, headers_of
from .faults import SHUTDOWN, STATUS, STOPPING
from .free_form import free_form, opened
from .route import Access, Route
from .routes import ROUTES
from .wire import ChatCompletionBody, ClosedQuery, Message, StreamOptions

Schema = dict[str, Any]
Codes = dict[str, str]
"""Machine words, each with what it means."""

PASSED_ON = (ChatCompletionBody, Message, StreamOptions)
"""What these hold beyond their fields goes to the provider."""

REF = "#/components/schemas/{model}"
ABOUT = (
    "One door of your own for a language model: it hides the provider's key, continues each"
    " user's conversation, writes every request and every answer down, holds back abuse, and"
    " turns every failure into one documented answer."
)
BODY_CODES: dict[int, Codes] = {
    HTTPStatus.BAD_REQUEST: {
        "invalid_json": "The body is not JSON, repeats a key, nests deeper than 32, or holds NaN"
        " or an integer over 64 bits.",
        "invalid_encoding": "The body is not UTF-8, or begins with a byte order mark; or the query"
        " is not ASCII, or what it writes as %XX not UTF-8.",
        "bad_request": "The request is not valid HTTP.",
    },
    HTTPStatus.REQUEST_TIMEOUT: {"request_timeout": "The request did not arrive within 10 s."},
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: {
        "body_too_large": "More than `CHATPORT_MAX_BODY_BYTES`, which is 1 MB if it is not set."
    },
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: {
        "unsupported_media_type": "Not `application/json`, or compressed."
    },
}
"""What is wrong with a body before its fields are looked at."""

QUERY: Codes = {
    "invalid_encoding": "The query is not ASCII, or what it writes as %XX not UTF-8.",
}
"""What is wrong with a query before its fields are looked at."""

CLOSED: Codes = {"unknown_field": "The body or the query has a field that the route does not know."}
OPEN: Codes = {"forbidden_field": "The body has a field that chatport does not pass on."}

STOPPED: Codes = {SHUTDOWN: STOPPING}

PROVIDERS_WORD = "The provider's own code, for what is wrong in its protocol."

SCHEME: Schema = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "cp_<id>_<secret>",
    "description": "A key of chatport's: `chatport keys create NAME` makes the first, and from"
    " then on callers need one. Admins always do, and their keys open nothing else.",
}
SECURITY: dict[Access, list[Schema]] = {
    Access.OPEN: [],
    Access.CALLER: [{"bearer": []}, {}],
    Access.ADMIN: [{"bearer": []}],
}
"""Two choices for callers: without any keys the service is open."""


def document() -> Schema:
    """Return the document."""
    schemas = _schemas()
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "chatport",
            "version": version("chatport"),
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name} for name in dict.fromkeys(route.group for route in ROUTES)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": HEADERS,
            "securitySchemes": {"bearer": SCHEME},
        },
    }


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles of fields, which repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # not of any
        """Return False."""
        return False


def _schemas() -> dict[str, Schema]:
    """Return the schemas of all records."""
    used: dict[type[BaseModel], None] = {}
    for route in ROUTES:
        parts = (route.body, route.answer, route.unready, route.error)
        events = (data for _, data in route.events)
        for part in (*parts, *events):
            if isinstance(part, type):
                used[part] = None
    _, made = models_json_schema(
        [(record, "validation") for record in used],
        ref_template=REF,
        schema_generator=_Untitled,
    )
    schemas: dict[str, Schema] = made["$defs"]
    for schema in schemas.values():
        schema.pop("title", None)
        schema["description"] = schema.get("description", "").split("\n\n")[0]
    for record in PASSED_ON:
        schemas[record.__name__].update(opened(schemas[record.__name__]["properties"]))
    return {**schemas, **free_form()}


def _ref(record: type[BaseModel]) -> Schema:
    return {"$ref": REF.format(model=record.__name__)}


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": route.name,
        "tags": [route.group],
        "summary": route.summary,
        "description": route.text,
        "security": SECURITY[route.access],
    }
    if parameters := list(_parameters(route)):
        operation["parameters"] = parameters
    if route.body is not None:
        content: Schema = {"schema": _ref(route.body)}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    operation["responses"] = {"200": _good(route), **_bad(route)}
    return operation


def _parameters(route: Route) -> Iterator[Schema]:
    for name, schema in route.path_values.items():
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if route.query is not None:
        made = route.query.model_json_schema(ref_template=REF, schema_generator=_Untitled)
        for name, schema in made["properties"].items():
            yield {"name": name, "in": "query", **_described(schema)}


def _described(schema: Mapping[str, Any]) -> Schema:
    """Return the schema with its description outside, where OpenAPI has it for parameters."""
    inner = {key: value for key, value in schema.items() if key != "description"}
    return {"description": schema["description"], "schema": inner}


def _good(route: Route) -> Schema:
    answer = route.answer
    schema = _ref(answer) if isinstance(answer, type) else dict(answer)
    content = {route.content_type: {"schema": schema}}
    if route.events:
        events = [_event(name, data) for name, data in route.events]
        content["text/event-stream"] = {"schema": {"anyOf": events}}
    return {
        "description": "What was asked for.",
        "headers": _headers(route),
        "content": content,
    }


def _event(name: str, data: type[BaseModel] | str) -> Schema:
    """Return the schema of one server-sent event: its name, and the text of its data."""
    text: Schema = {"const": data}
    if not isinstance(data, str):
        text = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": _ref(data),
        }
    return {
        "type": "object",
        "properties": {"event": {"const": name}, "data": text},
        "required": ["event", "data"],
        "additionalProperties": False,
    }


def _bad(route: Route) -> dict[str, Schema]:
    """Return the answers that are errors, by status."""
    found = {status: _error(route, status, codes) for status, codes in _codes(route).items()}
    return {str(status): found[status] for status in sorted(found)}


def _codes(route: Route) -> dict[int, Codes]:
    """Return what can go wrong, by status."""
    codes: dict[int, Codes] = {
        500: {ChatportError.code: ChatportError.message},
        503: {**STOPPED},
    }
    if route.body is not None:
        for status, of_body in BODY_CODES.items():
            codes[int(status)] = dict(of_body)
        codes[400] |= OPEN if route.body in PASSED_ON else CLOSED
    if route.query is not None:
        codes[400] = QUERY | (CLOSED if issubclass(route.query, ClosedQuery) else {})
    if route.path_values:
        codes[404] = {"not_found": "There is no such route."}
    for kind in route.all_faults():
        codes.setdefault(STATUS[kind], {}).setdefault(kind.code, _meaning(kind))
    return codes


def _meaning(kind: type[ChatportError]) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0]


def _error(route: Route, status: int, codes: Codes) -> Schema:
    schema = _with_codes(route.error, codes, others=status in route.passed_on)
    if status == HTTPStatus.SERVICE_UNAVAILABLE and route.unready is not None:
        schema = {"anyOf": [_ref(route.unready), schema]}
    return {
        "description": HTTPStatus(status).phrase + ".",
        "headers": _headers(route, *headers_of(status)),
        "content": {"application/json": {"schema": schema}},
    }


def _with_codes(error: type[BaseModel], codes: Codes, *, others: bool) -> Schema:
    """Return the schema of an error that has one of these codes, or the provider's."""
    words: list[Schema]
    words = [{"const": code, "description": meaning} for code, meaning in codes.items()]
    if others:
        words.append({"type": ["string", "null"], "description": PROVIDERS_WORD})
    narrowed: Schema = {"properties": {"code": {"anyOf": words}}}
    if "code" not in error.model_fields:
        narrowed = {"properties": {"error": narrowed}}
    return {"allOf": [_ref(error), narrowed]}


def _headers(route: Route, *more: str) -> dict[str, Schema]:
    own = ("Idempotency-Replayed", *LIMIT_HEADERS) if route.limited else ()
    names = ("X-Request-Id", *more, *own)
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
