"""The records of what clients get. The routes write these shapes; `/openapi.json` shows them.

Nothing is encoded by way of them, since that would cost every answer; the tests hold each answer
against its record instead.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from chatport.domain.model import State

from .wire import UserId

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Exact(BaseModel):
    """An answer with these keys and no others."""

    model_config = ConfigDict(extra="forbid")


class Relayed(BaseModel):
    """An answer of the provider, passed on as it came; it may hold more than is described."""

    model_config = ConfigDict(extra="allow")


class Completion(Exact):
    """A whole answer."""

    user_id: UserId = Field(description="Send it again to continue the chat.")
    completion: str = Field(description="What the model said.")


class CompletionError(Exact):
    """Why there is no completion."""

    error: str = Field(description="One sentence for people; never the provider's.")
    code: str = Field(description="One word for machines.")
    request_id: Id = Field(description="The `X-Request-Id`.")


class Fault(Exact):
    """What went wrong."""

    message: str = Field(description="One sentence for people.")
    type: str = Field(
        description="`invalid_request_error`, `authentication_error`, `permission_error`,"
        " `rate_limit_error`, `server_error`, or a word of the provider's."
    )
    param: str | None = Field(description="The part of the request that is wrong, if it is one.")
    code: str | None = Field(description="One word for machines.")


class Error(Exact):
    """An error as OpenAI's clients read it."""

    error: Fault


class Exchange(Exact):
    """One prompt and what became of it."""

    id: str = Field(description="The `X-Request-Id` of the request.")
    state: State = Field(description="How it ended, or `open`.")
    prompt: str
    completion: str = Field(description="The answer; what had arrived of one that broke off.")
    model: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    error_code: str | None = Field(description="Why it failed.")
    started_at: Moment
    finished_at: Moment | None


class ConversationPage(Exact):
    """Some of a user's exchanges, the newest last."""

    user_id: UserId
    exchanges: list[Exchange]
    before: int | None = Field(
        ge=1, description="Where there are older ones, the `before` of their page."
    )


class Erased(Exact):
    """What was erased."""

    user_id: UserId
    erased: int = Field(ge=0, description="How many exchanges it were.")


class Alive(Exact):
    """The process lives."""

    status: Literal["alive"]


class Ready(Exact):
    """The service can be asked."""

    status: Literal["ready", "degraded"] = Field(
        description="`degraded` while a provider is left alone because it failed."
    )
    checks: dict[str, str] = Field(description="The condition of each part.")


class NotReady(Exact):
    """The service cannot be asked now."""

    status: Literal["not ready"]
    reason: str
    code: str


class DeltaEvent(Exact):
    """The next piece of the answer."""

    text: str


class Choice(Relayed):
    """One of the answers that were asked for."""

    index: int
    message: dict[str, Any]
    finish_reason: str | None = None


class ChatCompletion(Relayed):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, Any] | None = None


class ChunkChoice(Relayed):
    """A piece of one of the answers."""

    index: int
    delta: dict[str, Any]
    finish_reason: str | None = None


class ChatCompletionChunk(Relayed):
    """OpenAI's piece of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: dict[str, Any] | None = None


class Model(Relayed):
    """A model that the provider offers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Relayed):
    """The models that the provider offers."""

    object: Literal["list"]
    data: list[Model]
