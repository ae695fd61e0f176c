"""The records of what clients send: they check the requests, and `/openapi.json` shows them.

Each takes exactly what its schema describes. Where standards differ, as on what white space is,
the schema lists the characters.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from chatport.domain.model import USER_ID
from chatport.domain.rules import BUDGETS, LIMITS
from chatport.domain.text import is_storable

from .faults import BadRequest

LARGEST_PAGE = 200
LONGEST_MODEL = 200
"""What stays in the usage when all else is erased; the longest known names have some 100."""

MAX_MESSAGES = 10_000
"""Of one request; OpenAI takes 2,048."""

MAX_DIGITS = 18
"""Below 64 bits, which is as far as databases count."""

BLANK = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `str.isspace` means; `\\s` in JSON Schema's dialect, ECMA-262, is another set."""

INVALID_UNICODE = ("invalid_unicode", "holds a NUL or half a surrogate pair")
PROBLEMS = {
    "missing": ("invalid_field", "is missing"),
    "string_type": ("invalid_field", "must be a string"),
    "string_too_short": ("invalid_field", "must not be empty"),
    "string_pattern_mismatch": ("invalid_field", "must not be empty"),
    "string_unicode": INVALID_UNICODE,
    "unstorable": INVALID_UNICODE,
    "user_id": ("invalid_user_id", "must be 1 to 128 of the characters A-Z a-z 0-9 . _ @ : -"),
    "caller_name": (
        "invalid_field",
        "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, and begin with a letter or digit",
    ),
    "model_name": ("invalid_field", "must be printable ASCII, without commas or spaces around it"),
    "limits": ("invalid_field", f"{LIMITS}, in lower case"),
    "budgets": ("invalid_field", BUDGETS),
    "day": ("invalid_field", "must be a day such as 2026-11-23"),
    "literal_error": ("invalid_field", "must be {expected}"),
    "string_too_long": ("invalid_field", "must have at most {max_length} characters"),
    "too_long": ("invalid_field", "must have at most {max_length} items"),
    "int_type": ("invalid_field", "must be a whole number"),
    "bool_type": ("invalid_field", "must be true or false"),
    "list_type": ("invalid_field", "must be an array"),
    "too_short": ("invalid_field", "must not be empty"),
    "too_many": ("invalid_field", "has too many items"),
    "dict_type": ("invalid_field", "must be an object"),
    "model_type": ("invalid_field", "must be an object"),
    "whole_number": ("invalid_field", "must be a whole number from {ge}"),
    "greater_than_equal": ("invalid_field", "must be a whole number from {ge}"),
    "less_than_equal": ("invalid_field", "must be at most {le}"),
}
"""Code and sentence for what pydantic, or a check of ours, finds wrong with a field."""


def _check_user_id(value: Any) -> Any:
    if isinstance(value, str) and not USER_ID.fullmatch(value):
        raise PydanticCustomError("user_id", "")
    return value


def _check_storable(value: Any) -> Any:
    if isinstance(value, str) and not is_storable(value):
        raise PydanticCustomError("unstorable", "")
    return value


def _check_number(messages: Any) -> Any:
    if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
        raise PydanticCustomError("too_many", "")
    return messages


def whole_number_from(least: int) -> Callable[[str], int]:
    """Return what reads a number in a query string, of which there is none below the least."""

    def whole_number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise PydanticCustomError("whole_number", "", {"ge": least})
        return int(text)

    return whole_number


def no_default(schema: dict[str, Any]) -> None:
    """Leave a default out of the schema that only stands for a field that is not there."""
    del schema["default"]


def left_out(schema: dict[str, Any]) -> None:
    """Leave null out of the schema too: in a query string there is none."""
    no_default(schema)
    schema.update(schema.pop("anyOf")[0])


USER_ID_PATTERN = f"^{USER_ID.pattern}$"
UserId = Annotated[str, Field(pattern=USER_ID_PATTERN), BeforeValidator(_check_user_id)]
STORABLE_PATTERN = r"^[^\u0000]*$"
Text = Annotated[str, Field(pattern=STORABLE_PATTERN), BeforeValidator(_check_storable)]
Prompt = Annotated[
    str,
    Field(pattern=rf"^[{BLANK}]*[^\u0000{BLANK}][^\u0000]*$"),
    BeforeValidator(_check_storable),
]

STRICT = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)


class CompletionBody(BaseModel):
    """A user's prompt.

    Attributes:
        user_id: Empty where it is left out.
    """

    model_config = ConfigDict(**STRICT, extra="forbid")

    prompt: Prompt = Field(description="What the user says. Not only white space, no NUL.")
    user_id: UserId = Field(
        default="",
        description="Names the user and continues the chat. Left out, the server makes an "
        "unguessable one and returns it.",
        json_schema_extra=no_default,
    )
    stream: bool = Field(default=False, description="True for server-sent events.")


class ClosedQuery(BaseModel):
    """A query of these names and no others: a filter with a wrong name would show too much."""

    model_config = ConfigDict(**STRICT, extra="forbid")


class PageQuery(BaseModel):
    """Which page of a conversation to show.

    Attributes:
        before: 0 where it is left out.
    """

    model_config = ConfigDict(**STRICT, extra="ignore")

    before: Annotated[
        int, Field(ge=1, le=10**MAX_DIGITS - 1), BeforeValidator(whole_number_from(1))
    ] = Field(
        default=0,
        description="The `before` of the page that was read last. Left out, the newest page.",
        json_schema_extra=no_default,
    )
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE), BeforeValidator(whole_number_from(1))] = (
        Field(default=50, description="Exchanges on a page.")
    )


class StreamOptions(BaseModel):
    """How a streamed answer is sent."""

    model_config = ConfigDict(**STRICT, extra="allow")

    include_usage: bool | None = Field(
        default=None, description="True for a last chunk with the token counts."
    )


class Message(TypedDict):
    """One message; what it holds beyond its role is passed on.

    It is a dict, and its role is looked at no closer, since a request may hold a thousand: a NUL
    is refused with those of all that is passed on.
    """

    __pydantic_config__ = ConfigDict(**STRICT, extra="allow")  # type: ignore[misc]  # is no key

    role: Annotated[str, Field(json_schema_extra={"pattern": STORABLE_PATTERN})]


class ChatCompletionBody(BaseModel):
    """OpenAI's request, as far as chatport itself reads it; the rest is passed on."""

    model_config = ConfigDict(**STRICT, extra="allow")

    model: Annotated[Text, Field(min_length=1, max_length=LONGEST_MODEL)] = Field(
        description="One of `GET /v1/models`."
    )
    messages: Annotated[list[Message], FailFast(), BeforeValidator(_check_number)] = Field(
        min_length=1, description="The conversation, oldest first."
    )
    stream: bool | None = Field(default=None, description="True for server-sent events.")
    stream_options: StreamOptions | None = Field(default=None, description="For a stream.")
    user: Text | None = Field(
        default=None,
        description="Names the user. One that is no `user_id` stands in the log as"
        " `sha256:` and its hash.",
    )
    safety_identifier: Text | None = Field(
        default=None, description="Names the user: OpenAI's newer word."
    )


Record = TypeVar("Record", bound=BaseModel)


def checked(record: type[Record], values: Mapping[str, Any]) -> Record:
    """Return the values as a record.

    Raises:
        BadRequest: They are not; the sentence names the field, and never quotes a value.
    """
    if record.model_config["extra"] == "forbid" and not values.keys() <= record.model_fields.keys():
        fields = ", ".join(sorted(record.model_fields))
        part = "query" if issubclass(record, ClosedQuery) else "body"
        message = f"The {part} has a field that this route does not know; it knows {fields}."
        raise BadRequest("unknown_field", message)
    try:
        return record.model_validate(values)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)[0]) from None


def _refusal(error: ErrorDetails) -> BadRequest:
    """Return the answer to the first thing that is wrong."""
    code, problem = PROBLEMS[error["type"]]
    field = _path(error["loc"])
    sentence = f"{field or 'A name in the body'} {problem.format_map(error.get('ctx', {}))}."
    return BadRequest(code, sentence, field=field or None)


def _path(place: tuple[int | str, ...]) -> str:
    """Return a place in the body as OpenAI writes it: `messages[0].role`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return "".join(steps).removeprefix(".")
