"""The table of all routes, as `/openapi.json` and the documentation page show them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from chatport.domain import errors
from chatport.domain.errors import ChatportError

from . import answers, wire
from .faults import STATUS

Kinds = tuple[type[ChatportError], ...]
PLAIN_TEXT = {"type": "string"}


def _tree(root: type[ChatportError]) -> Iterator[type[ChatportError]]:
    """Yield an error and all that are special cases of it."""
    return (kind for kind in STATUS if issubclass(kind, root))


IDEMPOTENCY: Kinds = (
    errors.InvalidIdempotencyKey,
    errors.IdempotencyInProgress,
    errors.IdempotencyKeyReused,
)
STORAGE: Kinds = tuple(_tree(errors.StorageUnavailable))
UPSTREAM: Kinds = tuple(_tree(errors.UpstreamError))
COMPLETION: Kinds = (
    errors.InvalidField,
    errors.InvalidUnicode,
    errors.RateLimited,
    errors.ExchangeLost,
    errors.ContentFiltered,
    errors.ContextLengthExceeded,
    *IDEMPOTENCY,
    *STORAGE,
    *UPSTREAM,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route.

    Attributes:
        name: The name of the operation, for generated clients.
        text: What there is to know beyond the summary.
        path_values: The names in the path, each with its schema.
        query: What it reads from the query string.
        body: What it reads from the body.
        example: A body, for trying it out.
        answer: What a good answer holds: a record, or a schema where it is no JSON of ours.
        content_type: Of the good answer.
        events: Of a streamed answer: the name of each event, and the record or the text in it.
        passed_on: The statuses with which a provider's own error may come.
        unready: The answer while the service should not be asked.
        error: How errors are written.
        faults: What can go wrong, beyond what can on every route.
        limited: It counts against the limits.
    """

    method: str
    path: str
    name: str
    group: str
    summary: str
    text: str
    path_values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    answer: type[BaseModel] | Mapping[str, Any]
    content_type: str = "application/json"
    events: tuple[tuple[str, type[BaseModel] | str], ...] = ()
    passed_on: tuple[int, ...] = ()
    unready: type[BaseModel] | None = None
    error: type[BaseModel] = answers.Error
    faults: Kinds = ()
    limited: bool = False


USER_IN_PATH = {
    "user_id": {"type": "string", "pattern": wire.USER_ID_PATTERN, "examples": ["ada"]},
}

SEND_AGAIN = (
    " A request with the header `Idempotency-Key` (your own name for it, 1 to 255 printable ASCII"
    " characters) can be sent again: with the same body it gets the first answer again, and"
    " nothing is called or counted twice."
)
"""No parameter of the document: a key is not to be made up anew, nor to be used for two bodies."""

ROUTES = (
    Route(
        method="post",
        path="/openai-completion",
        name="complete",
        group="Chat",
        summary="Answer a prompt, and continue the user's conversation",
        text=(
            "The answer comes whole, or with `stream` as server-sent events: `delta` again and"
            " again, then `done`, or `error` as the last one. A stream that ends with neither is"
            " not whole. The prompt may be as long as the operator allows, counted in bytes of"
            " UTF-8." + SEND_AGAIN
        ),
        body=wire.CompletionBody,
        example={"user_id": "ada", "prompt": "My name is Ada."},
        answer=answers.Completion,
        events=(
            ("delta", answers.DeltaEvent),
            ("done", answers.Completion),
            ("error", answers.CompletionError),
        ),
        error=answers.CompletionError,
        faults=(errors.InvalidUserId, *COMPLETION, errors.ConversationBusy),
        limited=True,
    ),
    Route(
        method="post",
        path="/v1/chat/completions",
        name="createChatCompletion",
        group="OpenAI's wire",
        summary="Answer a conversation in OpenAI's protocol",
        text=(
            "Any client of OpenAI's works by changing its base URL. The request says all that the"
            " model is to know; nothing is remembered. Every parameter is passed on, also one that"
            " does not exist yet. With `stream` the answer comes as server-sent events, with"
            " `[DONE]` after a good end, or an error as the last one." + SEND_AGAIN
        ),
        body=wire.ChatCompletionBody,
        example={"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]},
        answer=answers.ChatCompletion,
        events=(
            ("message", answers.ChatCompletionChunk),
            ("message", answers.Error),
            ("message", "[DONE]"),
        ),
        passed_on=(400, 404, 413, 422),
        faults=(*COMPLETION, errors.ModelNotAllowed),
        limited=True,
    ),
    Route(
        method="get",
        path="/v1/models",
        name="listModels",
        group="OpenAI's wire",
        summary="List the models",
        text="Those that the provider offers and the operator allows.",
        answer=answers.ModelList,
        faults=UPSTREAM,
    ),
    Route(
        method="get",
        path="/v1/models/{model}",
        name="retrieveModel",
        group="OpenAI's wire",
        summary="Describe a model",
        text="A name may hold slashes, as they are or as `%2F`.",
        path_values={"model": {"type": "string", "minLength": 1, "examples": ["gpt-5-mini"]}},
        answer=answers.Model,
        faults=(errors.ModelNotFound, *UPSTREAM),
    ),
    Route(
        method="get",
        path="/conversations/{user_id}",
        name="readConversation",
        group="Conversations",
        summary="Read a conversation",
        text="A page at a time, the newest exchanges last. Of a user who never was it is empty.",
        path_values=USER_IN_PATH,
        query=wire.PageQuery,
        answer=answers.ConversationPage,
        faults=(errors.InvalidField, errors.InvalidUserId, *STORAGE),
    ),
    Route(
        method="delete",
        path="/conversations/{user_id}",
        name="eraseConversation",
        group="Conversations",
        summary="Erase a conversation for good",
        text="Nothing of it is left in the database. Once more does no harm, and erases nothing.",
        path_values=USER_IN_PATH,
        answer=answers.Erased,
        faults=(errors.InvalidUserId, *STORAGE),
    ),
    Route(
        method="get",
        path="/healthz",
        name="health",
        group="Operations",
        summary="Say that the process lives",
        text="It touches neither the database nor the provider.",
        answer=answers.Alive,
    ),
    Route(
        method="get",
        path="/readyz",
        name="readiness",
        group="Operations",
        summary="Say whether the service can be asked",
        text="With status 503 it should get no requests.",
        answer=answers.Ready,
        unready=answers.NotReady,
    ),
    Route(
        method="get",
        path="/openapi.json",
        name="document",
        group="Documentation",
        summary="Describe all routes in OpenAPI 3.1",
        text="It is made from the records that check the requests.",
        answer={"type": "object", "required": ["openapi", "info", "paths", "components"]},
    ),
    Route(
        method="get",
        path="/docs",
        name="page",
        group="Documentation",
        summary="Show the documentation as a page",
        text="It needs no script, and nothing from elsewhere.",
        answer=PLAIN_TEXT,
        content_type="text/html",
    ),
    Route(
        method="get",
        path="/docs.css",
        name="stylesheet",
        group="Documentation",
        summary="Style the page",
        text="For light and dark screens of any width.",
        answer=PLAIN_TEXT,
        content_type="text/css",
    ),
)
"""A test holds it against the routes that there are."""
