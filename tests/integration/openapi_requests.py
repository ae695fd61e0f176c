"""Requests that `/openapi.json` allows and that it does not: is every answer as it says?

`test_openapi.py` runs this in a process of its own: the requests are made while pytest collects,
which takes seconds in each process.
"""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, assume, settings
from schemathesis import Case

from chatport.domain.callers import Caller, Role
from chatport.domain.errors import InvalidApiKey
from torture import times

from .callers import by_path
from .test_openapi import service_app

OPERATORS_KEY = {"Authorization": "Bearer cp_0123456789abcdef_of-the-operator"}


def by_key(authorization: str | None, address: str) -> Caller:
    """Take everybody for whoever may use the route, but on the routes for admins ask for a key."""
    caller = by_path(authorization, address)
    if caller.role is Role.ADMIN and authorization != OPERATORS_KEY["Authorization"]:
        raise InvalidApiKey
    return caller


api = schemathesis.openapi.from_wsgi("/openapi.json", service_app(by_key))


@api.parametrize()
@settings(
    max_examples=times(1, 400),  # beside some thousands that cover the document
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_every_request_and_answer_is_as_the_document_says(case: Case[Any]) -> None:
    assume([] not in (case.query or {}).values())  # it is not sent, but held to break the document
    case.call_and_validate(headers=OPERATORS_KEY if case.path.startswith("/admin/") else None)
