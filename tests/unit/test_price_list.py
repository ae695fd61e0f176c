"""The prices of the package and of the operator, and which model a name means."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, time
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from genai_prices import Usage as PackageUsage
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from chatport.adapters import FreeOfCharge, GenaiPriceList, Price
from chatport.domain.model import Usage

from .conftest import FakeClock

OPENAI = "https://api.openai.com/v1"
OPENROUTER = "https://openrouter.ai/api/v1"
HERE = "http://127.0.0.1:8080/v1"
PROXY = "https://llm.internal.example/v1"

MINI = Price(input=Decimal("0.15"), output=Decimal("0.60"), cached_input=Decimal("0.075"))
MILLION = Usage(prompt_tokens=1_000_000, completion_tokens=1_000_000)


def usage(prompt: int, completion: int, cached: int = 0) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


def cost(model: str, tokens: Usage = MILLION, *, base_url: str = OPENAI) -> int | None:
    return GenaiPriceList(base_url=base_url, clock=FakeClock()).cost(model, tokens)


def known(model: str, tokens: Usage = MILLION, *, base_url: str = OPENAI) -> int:
    nanodollars = cost(model, tokens, base_url=base_url)
    assert nanodollars is not None
    return nanodollars


def test_free_of_charge_is_free_whatever_it_is() -> None:
    assert FreeOfCharge().cost("gpt-5-mini", MILLION) == 0


def test_the_operators_own_price_counts_and_for_exactly_this_name() -> None:
    own = {"gpt-5-mini": MINI, "at-home": Price(input=Decimal(0), output=Decimal(0))}
    prices = GenaiPriceList(base_url=OPENAI, overrides=own)
    assert prices.cost("gpt-5-mini", usage(1000, 100)) == 210_000
    assert prices.cost("at-home", MILLION) == 0
    assert prices.cost("gpt-5-mini-2025-08-07", MILLION) == cost("gpt-5-mini")
    assert prices.cost("AT-HOME", MILLION) is None


def test_later_changes_of_the_mapping_change_nothing() -> None:
    own = {"mine": MINI}
    prices = GenaiPriceList(base_url=OPENAI, overrides=own)
    own.clear()
    assert prices.cost("mine", usage(1, 0)) == 150


def test_a_well_known_model_costs_what_one_would_expect() -> None:
    assert 10**8 < known("gpt-5-mini") < 10**10  # between 10 cents and 10 dollars
    assert known("gpt-5-nano") < known("gpt-5-mini") < known("gpt-5")


def test_what_was_cached_is_cheaper_but_not_free() -> None:
    fresh, cached = usage(10_000, 10), usage(10_000, 10, cached=9_000)
    assert 0 < known("gpt-5-mini", cached) < known("gpt-5-mini", fresh)


def test_a_dated_variant_costs_as_much_as_the_model() -> None:
    assert known("gpt-5-mini-2025-08-07") == known("GPT-5-mini") == known("gpt-5-mini")


@pytest.mark.parametrize(
    "model", ["nobody-knows-this", "", " ", "gpt-5-mini\n", "\ud800", "\0", "x" * 100_000, "🙂"]
)
@pytest.mark.parametrize("base_url", [OPENAI, OPENROUTER, HERE])
def test_the_price_of_an_unknown_model_is_not_known(model: str, base_url: str) -> None:
    assert cost(model, base_url=base_url) is None


def test_only_the_names_of_the_provider_itself_count_where_it_is_known() -> None:
    assert known("openai/gpt-5-mini", base_url=OPENROUTER) == known("gpt-5-mini")
    assert cost("gpt-5-mini", base_url=OPENROUTER) is None
    assert cost("openai/gpt-5-mini", base_url=OPENAI) is None
    assert cost("claude-sonnet-4-5", base_url=OPENAI) is None


def test_the_hosts_name_may_be_in_capitals() -> None:
    assert cost("claude-sonnet-4-5", base_url="https://API.OpenAI.com/v1") is None


@pytest.mark.parametrize("base_url", [HERE, PROXY, "http://10.0.0.7", "nonsense", ""])
def test_elsewhere_a_model_that_only_its_maker_sells_has_the_makers_price(base_url: str) -> None:
    price = known("gpt-5-mini")
    assert known("gpt-5-mini", base_url=base_url) == price
    assert known("openai/gpt-5-mini-2025-08-07", base_url=base_url) == price
    assert known("GPT-5-mini", base_url=base_url) == price
    fine_tuned = "ft:gpt-4o-mini-2024-07-18:acme::id"
    assert known(fine_tuned, base_url=base_url) == known(fine_tuned)


@pytest.mark.parametrize(
    "model",
    ["anthropic/claude-sonnet-4-5", "claude-sonnet-4-5", "gemini-2.5-pro", "grok-4", "o3"],
)
def test_elsewhere_the_makers_are_known_by_their_models(model: str) -> None:
    assert known(model, base_url=PROXY) > 0


@pytest.mark.parametrize(
    "model",
    [
        "gpt-oss:20b",
        "gpt-oss-20b",
        "openai/gpt-oss-20b",
        "gpt-oss-120b",
        "llama3.3",
        "mistral-large-latest",
        "deepseek-chat",
        "deepseek-r1:8b",
        "kimi-k2",
        "glm-4.6",
        "my-claude-3-haiku",
        "somebody/gpt-4o",
        "gemma-3",
    ],
)
def test_elsewhere_a_model_that_anybody_may_run_has_no_known_price(model: str) -> None:
    assert cost(model, base_url=HERE) is None


def test_a_model_that_is_free_by_its_name_costs_nothing() -> None:
    assert cost("deepseek/deepseek-r1:free", base_url=OPENROUTER) == 0


def test_a_model_that_is_sold_by_the_minute_has_no_price_for_tokens() -> None:
    assert cost("whisper-1") is None


@contextmanager
def selling(*models: ModelInfo, clock: FakeClock) -> Iterator[GenaiPriceList]:
    """Make a price list of these models only, which are named `0`, `1` and so on."""
    named = [replace(each, match=ClauseEquals(str(name))) for name, each in enumerate(models)]
    provider = Provider(id="p", name="p", api_pattern="https://p\\.example", models=named)
    set_custom_snapshot(DataSnapshot(providers=[provider], from_auto_update=False))
    try:
        yield GenaiPriceList(base_url="https://p.example/v1", clock=clock)
    finally:
        set_custom_snapshot(None)


def at_prices(prices: ModelPrice) -> ModelInfo:
    return ModelInfo(id="m", match=ClauseEquals("m"), prices=prices)


def test_a_long_prompt_is_dearer_from_its_first_token_on(clock: FakeClock) -> None:
    prices = ModelPrice(
        input_mtok=TieredPrices(
            base=Decimal(1), tiers=[Tier(100, Decimal(2)), Tier(200, Decimal(4))]
        ),
        cache_read_mtok=TieredPrices(base=Decimal("0.1"), tiers=[Tier(100, Decimal("0.2"))]),
        output_mtok=TieredPrices(base=Decimal(10), tiers=[Tier(200, Decimal(15))]),
    )
    with selling(at_prices(prices), clock=clock) as price_list:
        assert price_list.cost("0", usage(100, 1, cached=10)) == 90_000 + 1_000 + 10_000
        assert price_list.cost("0", usage(101, 1, cached=10)) == 182_000 + 2_000 + 10_000
        assert price_list.cost("0", usage(201, 1, cached=10)) == 764_000 + 2_000 + 15_000


def test_what_is_cached_may_be_free(clock: FakeClock) -> None:
    prices = ModelPrice(input_mtok=Decimal(1), cache_read_mtok=Decimal(0), output_mtok=Decimal(1))
    with selling(at_prices(prices), clock=clock) as price_list:
        assert price_list.cost("0", usage(10, 0, cached=9)) == 1_000


def test_a_model_that_is_free_by_its_name_but_has_a_price_costs_that(clock: FakeClock) -> None:
    prices = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))
    model = replace(at_prices(prices), id="m:free")
    with selling(model, clock=clock) as price_list:
        assert price_list.cost("0", usage(1, 1)) == 2_000


def test_a_fee_for_each_call_is_part_of_the_price(clock: FakeClock) -> None:
    prices = ModelPrice(
        input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal("12.5")
    )
    with selling(at_prices(prices), clock=clock) as price_list:
        assert price_list.cost("0", usage(10, 10)) == 12_500_000 + 20_000


@pytest.mark.parametrize("key", ["input_mtok", "output_mtok", "cache_read_mtok"])
def test_half_a_price_is_none(key: str, clock: FakeClock) -> None:
    model = at_prices(ModelPrice(**{key: Decimal(1)}))
    no_prices = replace(model, prices=[])
    with selling(model, no_prices, at_prices(ModelPrice()), clock=clock) as price_list:
        assert [price_list.cost(name, MILLION) for name in "012"] == [None, None, None]


def test_prices_that_change_with_the_hour_are_those_of_the_hour(clock: FakeClock) -> None:
    by_night = ConditionalPrice(
        constraint=TimeOfDateConstraint(start_time=time(20), end_time=time(6)),
        prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1)),
    )
    by_day = ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(3), output_mtok=Decimal(3)))
    model = replace(at_prices(ModelPrice()), prices=[by_day, by_night])
    with selling(model, clock=clock) as price_list:  # it is noon
        assert price_list.cost("0", usage(1, 1)) == 6_000
        clock.sleep(9 * 3600)
        assert price_list.cost("0", usage(1, 1)) == 2_000


def of_the_package(model: ModelInfo, provider: Provider, tokens: Usage, now: datetime) -> int:
    counts = PackageUsage(
        input_tokens=tokens.prompt_tokens,
        output_tokens=tokens.completion_tokens,
        cache_read_tokens=tokens.cached_tokens,
    )
    price = model.calc_price(counts, provider, genai_request_timestamp=now)
    return ceil(Fraction(price.total_price) * 10**9)


@pytest.mark.parametrize(
    "tokens", [usage(9, 7), usage(999, 77, 333), usage(400_001, 9, 3), usage(3_000_001, 10**5, 7)]
)
def test_every_model_of_the_package_costs_what_the_package_says(
    tokens: Usage, clock: FakeClock
) -> None:
    compared = 0
    for provider in get_snapshot().providers:
        with selling(*provider.models, clock=clock) as price_list:
            ours = [price_list.cost(str(name), tokens) for name in range(len(provider.models))]
        for model, cost_of_model in zip(provider.models, ours, strict=True):
            if cost_of_model is not None:
                theirs = of_the_package(model, provider, tokens, clock.now())
                assert cost_of_model == theirs, (provider.id, model.id)
                compared += 1
    assert compared > 1000


@given(st.integers(-(10**400), 10**400), st.integers(), st.integers())
def test_no_count_is_an_error(prompt: int, completion: int, cached: int) -> None:
    assert known("gpt-5-mini", usage(prompt, completion, cached)) >= 0


@settings(deadline=None)
@given(st.text(max_size=300), st.sampled_from([OPENAI, OPENROUTER, HERE]))
def test_no_name_is_an_error(model: str, base_url: str) -> None:
    nanodollars = cost(model, base_url=base_url)
    assert nanodollars is None or nanodollars >= 0


def test_a_name_that_is_too_long_is_not_looked_up() -> None:
    price_list = GenaiPriceList(base_url=OPENAI)
    begun_well = "gpt-5-nano-"
    assert price_list.cost(begun_well + "x" * 189, MILLION) == price_list.cost(
        "gpt-5-nano", MILLION
    )
    assert price_list.cost(begun_well + "x" * 190, MILLION) is None
    assert price_list._known.cache_info().currsize == 2


def test_names_of_strangers_do_not_fill_the_memory() -> None:
    price_list = GenaiPriceList(base_url=PROXY)
    snapshot = get_snapshot()
    remembered = len(snapshot._lookup_cache) + len(snapshot._provider_misses)
    for number in range(1000):
        price_list.cost(f"gpt-5-{number}", MILLION)
        price_list.cost("x" * (201 + number), MILLION)
    assert price_list._known.cache_info().currsize == 256
    assert len(snapshot._lookup_cache) + len(snapshot._provider_misses) == remembered


def test_it_needs_no_network_and_starts_no_thread() -> None:
    script = (
        "import sys, threading\n"
        "def audit(event, arguments):\n"
        "    if event.startswith('socket.'): raise AssertionError(event)\n"
        "from chatport.adapters import GenaiPriceList\n"
        "from chatport.domain.model import Usage\n"
        "assert 'genai_prices' not in sys.modules\n"
        "sys.addaudithook(audit)\n"
        "prices = GenaiPriceList(base_url='https://api.openai.com/v1')\n"
        "assert prices.cost('gpt-5-mini', Usage(prompt_tokens=9, completion_tokens=9))\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
