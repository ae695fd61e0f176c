"""The table of all routes, as `/openapi.json` and the documentation page show them."""

import re
from functools import cache

from chatport.domain import errors

from . import answers, wire
from .admin_routes import ADMIN_ROUTES
from .route import STORAGE, Access, Kinds, Route, tree

__all__ = ["COMPLETIONS", "ROUTES", "Access", "access_of"]

PLAIN_TEXT = {"type": "string"}
RULE_VALUE = re.compile(r"<(?:\w+:)?(\w+)>")
"""A name in a path, as Flask writes it."""

IDEMPOTENCY: Kinds = (
    errors.InvalidIdempotencyKey,
    errors.IdempotencyInProgress,
    errors.IdempotencyKeyReused,
)
UPSTREAM: Kinds = tuple(tree(errors.UpstreamError))
COMPLETION: Kinds = (
    errors.InvalidField,
    errors.InvalidUnicode,
    errors.ModelNotPriced,
    *tree(errors.Refused),
    errors.ExchangeLost,
    errors.ContentFiltered,
    errors.ContextLengthExceeded,
    *IDEMPOTENCY,
    errors.CallerTooSlow,
    errors.Overloaded,
    *STORAGE,
    *UPSTREAM,
)

USER_IN_PATH = {
    "user_id": {"type": "string", "pattern": wire.USER_ID_PATTERN, "examples": ["ada"]},
}

SEND_AGAIN = (
    " A request with the header `Idempotency-Key` (your own name for it, 1 to 255 printable ASCII"
    " characters) can be sent again: with the same body it gets the first answer again, and"
    " nothing is called or counted twice."
)
"""No parameter of the document: a key is not to be made up anew, nor to be used for two bodies."""

ROUTES: tuple[Route, ...] = (
    Route(
        method="post",
        path="/openai-completion",
        access=Access.CALLER,
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
        access=Access.CALLER,
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
        access=Access.CALLER,
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
        access=Access.CALLER,
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
        access=Access.CALLER,
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
        access=Access.CALLER,
        name="eraseConversation",
        group="Conversations",
        summary="Erase a conversation for good",
        text="Nothing of it is left in the database. Once more does no harm, and erases nothing.",
        path_values=USER_IN_PATH,
        answer=answers.Erased,
        faults=(errors.InvalidUserId, *STORAGE),
    ),
    *ADMIN_ROUTES,
    Route(
        method="get",
        path="/healthz",
        access=Access.OPEN,
        name="health",
        group="Operations",
        summary="Say that the process lives",
        text="It touches neither the database nor the provider.",
        answer=answers.Alive,
    ),
    Route(
        method="get",
        path="/readyz",
        access=Access.OPEN,
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
        access=Access.OPEN,
        name="document",
        group="Documentation",
        summary="Describe all routes in OpenAPI 3.1",
        text="It is made from the records that check the requests.",
        answer={"type": "object", "required": ["openapi", "info", "paths", "components"]},
    ),
    Route(
        method="get",
        path="/docs",
        access=Access.OPEN,
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
        access=Access.OPEN,
        name="stylesheet",
        group="Documentation",
        summary="Style the page",
        text="For light and dark screens of any width.",
        answer=PLAIN_TEXT,
        content_type="text/css",
    ),
)
"""A test holds it against the routes that there are."""

COMPLETIONS = frozenset(route.path for route in ROUTES if route.limited)
"""Where a model is asked: what limits count, and what overload is about."""


@cache
def access_of(method: str, rule: str) -> Access:
    """Return who may use a route; of one that the table does not know, admins.

    Args:
        method: As a request has it; HEAD is as GET.
        rule: The path, as Flask writes it: `/conversations/<user_id>`.
    """
    wanted = ("get" if method == "HEAD" else method.lower(), RULE_VALUE.sub(r"{\1}", rule))
    found = (route.access for route in ROUTES if (route.method, route.path) == wanted)
    return next(found, Access.ADMIN)
