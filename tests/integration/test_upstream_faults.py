"""Each fault of the provider: which error it becomes, what is stored, and what stays secret."""

import logging
import socket
import traceback
from collections.abc import Callable
from contextlib import closing

import pytest

from chatport.adapters import MemoryStore, OpenAIGateway
from chatport.domain import ChatportError, ChatRequest, ChatService, Exchange, State
from chatport.domain.errors import UpstreamUnreachable

from .asking import only, service
from .conftest import OpenGateway
from .faults import KEY, PROMPT, SOON, Fault
from .plain_faults import PLAIN_FAULTS
from .stream_faults import STREAM_FAULTS
from .upstream import Upstream

Ask = Callable[[ChatService], None]
EVERY_PLAIN_FAULT = pytest.mark.parametrize("fault", PLAIN_FAULTS, ids=lambda fault: fault.name)
EVERY_STREAM_FAULT = pytest.mark.parametrize("fault", STREAM_FAULTS, ids=lambda fault: fault.name)


def ask_plainly(service: ChatService) -> None:
    service.reply(ChatRequest(prompt=PROMPT))


def ask_for_a_stream(service: ChatService) -> None:
    with closing(service.stream(ChatRequest(prompt=PROMPT))) as stream:
        list(stream)


def failure_of(ask: Ask, gateway: OpenAIGateway, store: MemoryStore) -> ChatportError:
    with pytest.raises(ChatportError) as caught:
        ask(service(gateway, store))
    return caught.value


def assert_fault(fault: Fault, failure: ChatportError, stored: Exchange) -> None:
    facts = (type(failure), failure.upstream_status, failure.retry_after_seconds)
    assert facts == (fault.error, fault.status, fault.retry_after)
    assert (stored.state, stored.error_code) == (State.FAILED, fault.error.code)
    assert stored.upstream_status == fault.status


def assert_secret(failure: ChatportError, log: str) -> None:
    told = ["".join(traceback.format_exception(failure)), log]
    link: BaseException | None = failure
    while link is not None:
        told += [str(link), repr(link), repr(vars(link))]
        link = link.__cause__ or link.__context__
    assert [text for text in told if KEY in text or "canary-prompt" in text] == []


@EVERY_PLAIN_FAULT
def test_a_fault_of_a_plain_answer_has_its_error_and_its_outcome_and_tells_no_secret(
    fault: Fault,
    upstream: Upstream,
    open_gateway: OpenGateway,
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream.plays(fault.answer)
    caplog.set_level(logging.DEBUG)
    failure = failure_of(ask_plainly, open_gateway(fault.timeout_seconds), store)
    assert_fault(fault, failure, only(store))
    assert only(store).reply == ""
    assert len(upstream.received) == 1
    assert_secret(failure, caplog.text)


@EVERY_STREAM_FAULT
def test_a_fault_of_a_stream_has_its_error_and_its_outcome_and_tells_no_secret(
    fault: Fault,
    upstream: Upstream,
    open_gateway: OpenGateway,
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream.plays(fault.answer)
    caplog.set_level(logging.DEBUG)
    failure = failure_of(ask_for_a_stream, open_gateway(fault.timeout_seconds), store)
    assert_fault(fault, failure, only(store))
    assert only(store).reply == fault.partial
    assert len(upstream.received) == 1
    assert_secret(failure, caplog.text)


@pytest.mark.parametrize("ask", [ask_plainly, ask_for_a_stream])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_provider_that_does_not_listen_is_unreachable(
    ask: Ask, scheme: str, store: MemoryStore
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/v1"
        with closing(OpenAIGateway(api_key=KEY, base_url=url)) as gateway:
            failure = failure_of(ask, gateway, store)
    assert type(failure) is UpstreamUnreachable
    assert only(store).error_code == "upstream_unreachable"


@pytest.mark.parametrize("ask", [ask_plainly, ask_for_a_stream])
def test_a_provider_that_speaks_no_tls_is_unreachable(
    ask: Ask, upstream: Upstream, store: MemoryStore
) -> None:
    url = upstream.url.replace("http:", "https:")
    with closing(OpenAIGateway(api_key=KEY, base_url=url, timeout_seconds=SOON)) as gateway:
        failure = failure_of(ask, gateway, store)
    assert type(failure) is UpstreamUnreachable
    assert upstream.received == []
