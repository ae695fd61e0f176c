"""Texts of errors stay where they are: they may hold a prompt, an answer or a key."""

import json
import logging

import pytest
from gunicorn.http import errors

from chatport.adapters import upstream_faults
from chatport.domain.errors import UpstreamInvalidResponse
from chatport.entrypoints import plain_requests
from chatport.entrypoints.access_log import JSONFormatter


def test_a_logged_exception_is_its_name_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setFormatter(JSONFormatter())
    try:
        int("canary")
    except ValueError:
        logging.getLogger("anybody").exception("failed")
    assert json.loads(caplog.text)["exception"] == "ValueError"
    assert "canary" not in caplog.text


def test_what_the_sdk_or_the_parser_raises_is_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(UpstreamInvalidResponse) as fault, upstream_faults.translated("k"):
        raise ValueError("canary")
    assert "canary" not in f"{fault.value!r} {caplog.text}"


def test_a_header_that_is_none_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    answer = plain_requests.refusal(errors.InvalidHeaderName("canary"), seed=False)
    assert b"canary" not in answer
    assert "canary" not in caplog.text
