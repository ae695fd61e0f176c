"""The one admission: rules of the service and of callers, estimates, and what is given back."""

from typing import Any

import pytest

from chatport.adapters import LimitsCounter, MemoryStore, ScriptedGateway, WindowTable
from chatport.domain import (
    Budget,
    Caller,
    ChatRequest,
    ChatService,
    InFlight,
    Limit,
    LogQuery,
    Period,
    PriceList,
    RateLimiter,
    Relay,
    Unit,
    Usage,
)
from chatport.domain.errors import (
    BudgetExceeded,
    ExceedsLimit,
    InvalidField,
    ModelNotPriced,
    RateLimited,
)
from chatport.domain.limits import MAX_PLANS
from chatport.domain.relay import RequestText

from .conftest import MakeService

TOKENS = Unit.TOKENS
SHOP = Caller(name="shop")
TEXT = RequestText(messages=['{"role":"user"}'], parameters="{}")


class Dear(PriceList):
    """A dollar a token, for the models it knows."""

    def cost(self, model: str, usage: Usage) -> int | None:
        if model == "unknown":
            return None
        return (usage.prompt_tokens + usage.completion_tokens) * 10**9


def counter() -> LimitsCounter:
    return LimitsCounter(WindowTable(slots=64, monotonic=lambda: 0.0))


def tokens(amount: int) -> Limit:
    return Limit(amount=amount, window_seconds=60, unit=TOKENS)


def ask(service: ChatService, prompt: str = "Hello", **fields: Any) -> str:
    return service.reply(ChatRequest(prompt=prompt, **fields)).text


def relay(model: str = "m", max_tokens: int | None = None) -> Relay:
    return Relay(model=model, body=b"x" * 40, text=TEXT, max_tokens=max_tokens)


def test_tokens_are_taken_by_estimate_and_settled_to_the_truth(make_service: MakeService) -> None:
    limits = RateLimiter(counter(), user=[tokens(150)])
    service = make_service(ScriptedGateway("one"), limiter=limits, max_output_tokens=100)
    left = []
    for n in range(3):
        reply = service.reply(ChatRequest(prompt="four" * n + "x", user_id=f"u{n}"))
        left.append(reply.allowances[0].remaining)
    assert left == [49, 48, 47]
    again = service.reply(ChatRequest(prompt="x", user_id="u0"))
    used_first = 1 + 1  # tokens of the first call: `x`, and `one`
    assert again.allowances[0].remaining == 150 - used_first - (100 + 1 + 1)


def test_a_request_that_no_window_can_ever_admit_is_told_so(make_service: MakeService) -> None:
    limits = RateLimiter(counter(), caller=[tokens(99)])
    service = make_service(ScriptedGateway("one"), limiter=limits, max_output_tokens=100)
    with pytest.raises(ExceedsLimit) as refused:
        ask(service)
    assert str(refused.value) == (
        "This request may take 102 tokens, and the caller is allowed 99 tokens per minute;"
        " send less, or ask for a shorter answer with max_completion_tokens."
    )
    assert refused.value.retry_after_seconds is None


def test_what_the_client_allows_itself_is_what_is_reserved(make_service: MakeService) -> None:
    limits = RateLimiter(counter(), user=[tokens(1000)])
    service = make_service(ScriptedGateway("one", "one"), limiter=limits)
    reply = service.reply(ChatRequest(prompt="x", user_id="u", relay=relay(max_tokens=300)))
    assert reply.allowances[0].remaining == 1000 - 300 - 10
    with pytest.raises(ExceedsLimit, match="may take 4106 tokens"):
        service.reply(ChatRequest(prompt="x", user_id="v", relay=relay()))


def test_more_than_the_longest_answer_may_not_be_asked_for(make_service: MakeService) -> None:
    service = make_service(ScriptedGateway("one"), max_output_tokens=100)
    with pytest.raises(InvalidField, match="max_completion_tokens must be at most 100 in all"):
        service.reply(ChatRequest(prompt="x", relay=relay(max_tokens=101)))
    assert service.reply(ChatRequest(prompt="x", relay=relay(max_tokens=100))).text == "one"


def test_the_longest_answer_goes_to_the_provider(make_service: MakeService) -> None:
    gateway = ScriptedGateway("one")
    ask(make_service(gateway, max_output_tokens=100))
    assert [call.max_tokens for call in gateway.calls] == [100]


def test_under_a_budget_in_dollars_a_model_needs_a_price(
    make_service: MakeService, store: MemoryStore
) -> None:
    budget = Budget(amount=10**15, unit=Unit.USD, period=Period.DAY)
    limits = RateLimiter(counter(), total=[Limit(amount=1, window_seconds=60), budget])
    service = make_service(ScriptedGateway("one"), limiter=limits, prices=Dear())
    with pytest.raises(ModelNotPriced):
        service.reply(ChatRequest(prompt="x", relay=relay("unknown")))
    assert ask(service) == "one"  # nothing was taken from the limit
    [exchange] = store.search(LogQuery())
    assert exchange.nanodollars == (2 + 1) * 10**9


def test_a_budget_holds_the_estimate_and_then_the_truth(make_service: MakeService) -> None:
    budget = Budget(amount=110, unit=TOKENS, period=Period.DAY)
    limits = RateLimiter(total=[budget])
    service = make_service(ScriptedGateway("one", "two"), limiter=limits, max_output_tokens=100)
    ask(service)
    ask(service)
    with pytest.raises(BudgetExceeded, match=r"may cost 105: 6 are spent, 0 are reserved"):
        ask(service, "Hello, hello, hello")


def test_a_callers_own_rules_come_in_place_of_those_of_the_service() -> None:
    limits = RateLimiter(
        counter(),
        user=[Limit(amount=1, window_seconds=60), InFlight(amount=1)],
        caller=[Limit(amount=2, window_seconds=60)],
    )
    own = Caller(name="own", user_limits=(), limits=(Limit(amount=3, window_seconds=60),))
    for _ in range(3):
        limits.admit(own, "ada", 1)
    with pytest.raises(RateLimited, match="The caller limit of 3 requests per minute"):
        limits.admit(own, "ada", 1)
    limits.admit(SHOP, "ada", 1)
    with pytest.raises(RateLimited, match="The user limit of 1 request per minute"):
        limits.admit(SHOP, "ada", 1)
    assert [len(limits.plan(caller).ceilings) for caller in (SHOP, own)] == [1, 0]


def test_a_change_of_a_caller_is_noticed_and_few_plans_are_remembered() -> None:
    limits = RateLimiter(counter())
    assert limits.plan(SHOP).limits == []
    changed = Caller(name="shop", limits=(Limit(amount=1, window_seconds=60),))
    assert len(limits.plan(changed).limits) == 1
    for n in range(MAX_PLANS + 5):
        limits.plan(Caller(name=f"c{n}"))
    assert len(limits._plans) == MAX_PLANS


def test_a_rule_that_is_written_twice_counts_once() -> None:
    once = Limit(amount=2, window_seconds=60)
    limits = RateLimiter(counter(), user=[once, once])
    assert [each.remaining for each in limits.admit(SHOP, "ada", 1)] == [1]


def test_limits_in_windows_without_a_counter_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="no counter"):
        RateLimiter(user=[tokens(1)]).admit(SHOP, "ada", 1)


def test_a_name_of_a_caller_is_checked() -> None:
    for name in ("", "-x", "a b", "a/b", "x" * 65, "é"):
        with pytest.raises(InvalidField, match="begin with a letter or digit"):
            Caller(name=name)
    assert Caller(name="x" * 64).name == "x" * 64
