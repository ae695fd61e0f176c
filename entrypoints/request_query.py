"""Reading a request's query string, strictly: a filter that is not heeded shows too much."""

from urllib.parse import unquote_to_bytes

from flask import request

from .faults import BadRequest
from .wire import Record, checked

NOT_TEXT = "The query must be ASCII, and what it writes as %XX UTF-8."


def check_query() -> None:
    """Refuse a query that holds bytes that are no text, which Flask would take for other text.

    Raises:
        BadRequest: It does.
    """
    try:
        unquote_to_bytes(request.query_string.decode("ascii")).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("invalid_encoding", NOT_TEXT) from None


def parsed_query(record: type[Record]) -> Record:
    """Return the query as a record.

    Raises:
        BadRequest: It is none, or gives a field twice: one of the two would not be heeded.
    """
    for name in record.model_fields:
        if len(request.args.getlist(name)) > 1:
            sentence = f"{name} must stand in the query only once."
            raise BadRequest("invalid_field", sentence, field=name)
    return checked(record, request.args.to_dict())
