"""Streamed answers: exactly one outcome, whoever ends them and when."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from pytest_mock import MockerFixture

from chatport.adapters import MemoryStore, Script, ScriptedGateway
from chatport.domain import (
    ChatRequest,
    ChatService,
    ChatStream,
    CompletionRequest,
    Delta,
    Exchange,
    LogQuery,
    State,
    Usage,
)
from chatport.domain.errors import (
    StorageFull,
    UpstreamDisconnected,
    UpstreamTimeout,
    UpstreamTruncated,
)

MakeService = Callable[..., ChatService]
USAGE = Usage(prompt_tokens=9, completion_tokens=3)
SCRIPT = Script(chunks=("one ", "two ", "three"), usage=USAGE, upstream_request_id="req_1")


def open_stream(service: ChatService) -> ChatStream:
    return service.stream(ChatRequest(prompt="Hello", user_id="ada"))


def only(store: MemoryStore) -> Exchange:
    [exchange] = store.search(LogQuery())
    return exchange


def test_pieces_come_in_order_and_the_outcome_is_there_when_they_end(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    stream = open_stream(make_service(gateway))
    assert stream.user_id == "ada"
    assert list(stream) == ["one ", "two ", "three"]
    assert gateway.open_streams == 0
    exchange = only(store)
    assert (exchange.state, exchange.reply) == (State.COMPLETED, "one two three")
    assert (exchange.usage, exchange.upstream_request_id) == (USAGE, "req_1")
    assert stream.reply is not None
    assert (stream.reply.text, stream.reply.usage) == ("one two three", USAGE)


def test_closing_after_the_end_changes_nothing(
    make_service: MakeService, store: MemoryStore
) -> None:
    stream = open_stream(make_service(ScriptedGateway(SCRIPT)))
    list(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert only(store).state is State.COMPLETED


@pytest.mark.parametrize(("read", "reply"), [(0, ""), (1, "one "), (3, "one two three")])
def test_a_client_that_leaves_cancels_and_what_arrived_is_kept(
    make_service: MakeService, store: MemoryStore, read: int, reply: str
) -> None:
    gateway = ScriptedGateway(SCRIPT)
    stream = open_stream(make_service(gateway))
    for _ in range(read):
        next(stream)
    assert gateway.open_streams == 1
    stream.close()
    assert gateway.open_streams == 0
    exchange = only(store)
    assert (exchange.state, exchange.reply, exchange.error_code) == (State.CANCELLED, reply, None)
    assert exchange.usage is not None
    assert exchange.usage.estimated is True
    stream.close()
    assert list(stream) == []
    assert only(store).state is State.CANCELLED


def test_a_stream_that_cannot_be_opened_fails_before_the_first_byte(
    make_service: MakeService, store: MemoryStore
) -> None:
    service = make_service(ScriptedGateway(Script(raises=UpstreamTimeout())))
    with pytest.raises(UpstreamTimeout):
        open_stream(service)
    assert (only(store).state, only(store).error_code) == (State.FAILED, "upstream_timeout")


def test_a_stream_that_breaks_fails_with_what_arrived(
    make_service: MakeService, store: MemoryStore
) -> None:
    gateway = ScriptedGateway(Script(chunks=("half",), raises=UpstreamDisconnected()))
    stream = open_stream(make_service(gateway))
    assert next(stream) == "half"
    with pytest.raises(UpstreamDisconnected):
        next(stream)
    stream.close()
    assert gateway.open_streams == 0
    exchange = only(store)
    assert (exchange.state, exchange.error_code) == (State.FAILED, "upstream_disconnected")
    assert (exchange.reply, exchange.finish_reason) == ("half", None)


def test_a_stream_that_just_ends_is_truncated(
    make_service: MakeService, store: MemoryStore
) -> None:
    stream = open_stream(
        make_service(ScriptedGateway(Script(chunks=("half",), finish_reason=None)))
    )
    assert next(stream) == "half"
    with pytest.raises(UpstreamTruncated):
        next(stream)
    assert (only(store).state, only(store).error_code) == (State.FAILED, "upstream_truncated")


def test_an_exit_of_the_process_interrupts_a_stream(
    make_service: MakeService, store: MemoryStore
) -> None:
    stream = open_stream(
        make_service(ScriptedGateway(Script(chunks=("half",), raises=KeyboardInterrupt())))
    )
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert (only(store).state, only(store).reply) == (State.INTERRUPTED, "half")


class Silent(ScriptedGateway):
    """A provider that is silent for a while before and after it speaks."""

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        self.calls.append(request)
        yield iter([Delta(), Delta(text="word"), Delta(), Delta(finish_reason="stop"), Delta()])


def test_silence_is_heard_as_empty_pieces_and_facts_are_not(make_service: MakeService) -> None:
    assert list(open_stream(make_service(Silent()))) == ["", "word", "", ""]


def test_a_long_answer_is_written_down_on_its_way(
    make_service: MakeService, store: MemoryStore, clock: Any
) -> None:
    stream = open_stream(make_service(ScriptedGateway(Script(chunks=("a" * 4096, "b", "c", "d")))))
    next(stream)
    assert only(store).reply == "a" * 4096
    next(stream)
    assert only(store).reply == "a" * 4096
    clock.passed += 2
    next(stream)
    assert only(store).reply == "a" * 4096 + "bc"
    assert only(store).state is State.OPEN
    stream.close()
    assert only(store).reply == "a" * 4096 + "bc"


def test_a_very_long_answer_is_not_written_down_again_and_again(
    make_service: MakeService, store: MemoryStore, mocker: MockerFixture
) -> None:
    written = mocker.spy(store, "checkpoint")
    pieces = ("a" * 4096,) * 500
    assert list(open_stream(make_service(ScriptedGateway(Script(chunks=pieces)))))
    sizes = [len(call.args[0].reply) for call in written.call_args_list]
    assert sum(sizes) < 10 * 500 * 4096
    assert all(after <= before * 1.25 + 4096 for before, after in pairwise(sizes))


class Full(MemoryStore):
    """A store that cannot write an outcome."""

    def finish(self, exchange: Exchange) -> None:
        raise StorageFull


def test_the_end_is_not_acknowledged_if_it_cannot_be_kept(make_service: MakeService) -> None:
    gateway = ScriptedGateway(SCRIPT)
    stream = open_stream(make_service(gateway, store=Full()))
    with pytest.raises(StorageFull):
        list(stream)
    assert (stream.reply, gateway.open_streams) == (None, 0)


class BadlyClosing(ScriptedGateway):
    """A provider whose connection cannot even be closed."""

    @contextmanager
    def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
        self.calls.append(request)
        yield iter([Delta(text="word")])
        raise OSError


def test_an_outcome_is_written_even_when_closing_the_call_fails(
    make_service: MakeService, store: MemoryStore
) -> None:
    stream = open_stream(make_service(BadlyClosing()))
    next(stream)
    with pytest.raises(OSError):
        stream.close()
    assert (only(store).state, only(store).reply) == (State.CANCELLED, "word")
    stream.close()


def test_what_is_written_down_on_the_way_is_clean(
    make_service: MakeService, store: MemoryStore
) -> None:
    stream = open_stream(make_service(ScriptedGateway(Script(chunks=("\x00" + "a" * 4096, "b")))))
    next(stream)
    assert only(store).reply == "\ufffd" + "a" * 4096
    stream.close()


class CountingStore(MemoryStore):
    """A store that counts how often an outcome is written."""

    finished = 0

    def finish(self, exchange: Exchange) -> None:
        self.finished += 1
        super().finish(exchange)


def test_an_outcome_is_written_exactly_once(make_service: MakeService) -> None:
    counting = CountingStore()
    stream = open_stream(make_service(ScriptedGateway(SCRIPT), store=counting))
    list(stream)
    stream.close()
    stream.close()
    assert counting.finished == 1


def test_the_exchange_is_open_when_the_stream_is_entered(
    make_service: MakeService, store: MemoryStore
) -> None:
    seen: list[State] = []

    class Watching(ScriptedGateway):
        @contextmanager
        def stream(self, request: CompletionRequest) -> Iterator[Iterator[Delta]]:
            seen.append(only(store).state)
            with super().stream(request) as deltas:
                yield deltas

    open_stream(make_service(Watching(SCRIPT))).close()
    assert seen == [State.OPEN]
