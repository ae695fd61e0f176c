"""Which models there are: asked for once a minute, by one thread, and filtered."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chatport.adapters import OfflineGateway, ScriptedGateway
from chatport.domain import ChatService, ModelCard, ModelCatalog
from chatport.domain.errors import ModelNotFound, UpstreamAuthFailed, UpstreamError, UpstreamTimeout

MakeService = Callable[..., ChatService]

SMALL = ModelCard(id="small", facts={"id": "small", "object": "model", "later": [1]})
LARGE = ModelCard(id="maker/large:free", facts={"id": "maker/large:free"})
ODD = ModelCard(id="odd", facts={"id": "odd"})


def test_the_models_are_the_providers_in_its_order(clock: Any) -> None:
    catalog = ModelCatalog(ScriptedGateway("x", models=[SMALL, LARGE, ODD]), clock)
    assert list(catalog.cards()) == [SMALL, LARGE, ODD]
    assert catalog.card("maker/large:free") == LARGE
    assert catalog.card("small").facts == {"id": "small", "object": "model", "later": [1]}


def test_only_allowed_models_are_shown_in_the_providers_order(clock: Any) -> None:
    gateway = ScriptedGateway("x", models=[SMALL, LARGE, ODD])
    catalog = ModelCatalog(gateway, clock, allowed=["odd", "small", "not offered"])
    assert list(catalog.cards()) == [SMALL, ODD]


@pytest.mark.parametrize("model", ["maker/large:free", "not offered", "unknown", "", "SMALL"])
def test_a_model_that_one_of_both_does_not_list_is_not_found(clock: Any, model: str) -> None:
    gateway = ScriptedGateway("x", models=[SMALL, LARGE])
    catalog = ModelCatalog(gateway, clock, allowed=["small", "not offered"])
    with pytest.raises(ModelNotFound) as missing:
        catalog.card(model)
    assert (missing.value.code, missing.value.field) == ("model_not_found", "model")


def test_the_provider_is_asked_once_a_minute(clock: Any) -> None:
    gateway = ScriptedGateway("x", models=[SMALL])
    clock.passed = 1000
    catalog = ModelCatalog(gateway, clock)
    assert gateway.model_calls == 0
    for passed, calls in [(1000, 1), (1000, 1), (1059.9, 1), (1060, 2), (1119.9, 2), (1120, 3)]:
        clock.passed = passed
        assert catalog.card("small") == SMALL
        assert gateway.model_calls == calls


def test_a_list_without_models_is_an_answer_too(clock: Any) -> None:
    gateway = ScriptedGateway("x")
    catalog = ModelCatalog(gateway, clock)
    assert list(catalog.cards()) == []
    assert list(catalog.cards()) == []
    assert gateway.model_calls == 1


class Failing(ScriptedGateway):
    """A provider that fails so often before it answers."""

    def __init__(self, *faults: UpstreamError) -> None:
        super().__init__("x", models=[SMALL])
        self._faults = list(faults)

    def models(self) -> Sequence[ModelCard]:
        cards = super().models()
        if self._faults:
            raise self._faults.pop(0)
        return cards


def test_a_failure_is_said_and_not_kept(clock: Any) -> None:
    gateway = Failing(UpstreamTimeout(), UpstreamAuthFailed())
    catalog = ModelCatalog(gateway, clock)
    with pytest.raises(UpstreamTimeout):
        catalog.cards()
    with pytest.raises(UpstreamAuthFailed):
        catalog.card("small")
    assert list(catalog.cards()) == [SMALL]
    assert gateway.model_calls == 3


class Held(ScriptedGateway):
    """A provider that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__("x", models=[SMALL])
        self.asked, self.go = threading.Event(), threading.Event()

    def models(self) -> Sequence[ModelCard]:
        self.asked.set()
        self.go.wait(10)
        return super().models()


def test_threads_that_come_together_share_one_question(clock: Any) -> None:
    gateway = Held()
    catalog = ModelCatalog(gateway, clock)
    answers: list[Sequence[ModelCard]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(list(catalog.cards()))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert gateway.asked.wait(10)
    gateway.go.set()
    for thread in threads:
        thread.join(10)
    assert answers == [[SMALL]] * 8
    assert gateway.model_calls == 1


class HeldAndFailing(Held):
    """A provider that fails after half a minute the first time, and then answers."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock

    def models(self) -> Sequence[ModelCard]:
        cards = super().models()
        if self.model_calls == 1:
            self._clock.passed += 30
            raise UpstreamTimeout
        return cards


def test_threads_that_wait_for_a_question_that_fails_hear_of_it_and_do_not_ask_again(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Semaphore(0)
    gateway = HeldAndFailing(clock)
    catalog = ModelCatalog(gateway, clock)
    monotonic = clock.monotonic
    outcomes: list[str] = []

    def look() -> float:
        arrived.release()
        return float(monotonic())

    monkeypatch.setattr(clock, "monotonic", look)

    def ask() -> None:
        try:
            catalog.cards()
            outcomes.append("answered")
        except UpstreamTimeout:
            outcomes.append("timeout")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(8 + 1):  # each looks at the clock as it comes, and the one that asks once more
        assert arrived.acquire(timeout=10)
    gateway.go.set()
    for thread in threads:
        thread.join(10)
    assert (outcomes, gateway.model_calls) == (["timeout"] * 8, 1)
    assert list(catalog.cards()) == [SMALL]


def test_a_slow_answer_is_fresh_for_a_minute_from_its_arrival(clock: Any) -> None:
    class Slow(ScriptedGateway):
        def models(self) -> Sequence[ModelCard]:
            clock.passed += 30
            return super().models()

    gateway = Slow("x", models=[SMALL])
    catalog = ModelCatalog(gateway, clock)
    catalog.cards()
    clock.passed = 89.9
    catalog.cards()
    assert gateway.model_calls == 1
    clock.passed = 90
    catalog.cards()
    assert gateway.model_calls == 2


def test_a_service_offers_what_its_gateway_has_and_its_operator_allows(
    make_service: MakeService,
) -> None:
    gateway = ScriptedGateway("x", models=[SMALL, LARGE])
    service = make_service(gateway, allowed_models=["maker/large:free"])
    assert list(service.models.cards()) == [LARGE]
    assert list(make_service(gateway).models.cards()) == [SMALL, LARGE]


def test_the_offline_provider_has_one_model(clock: Any) -> None:
    assert [card.id for card in ModelCatalog(OfflineGateway(), clock).cards()] == ["offline"]
