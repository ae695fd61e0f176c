"""`chatport usage`: a table with bars, JSON and CSV of what was used, and what was refused."""

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chatport.adapters import PeeweeStore
from chatport.domain import Exchange, HistoryBounds, State, Usage
from chatport.entrypoints.cli import main

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
CENT = 10_000_000
HOSTILE = (
    "word \x1b[2J\x1b]0;owned\x07 \x9b31m \u202egpj\r\x08\x7f\x85\u2066\u061c\u200b\ufeff\u2028"
)
Ask = Callable[..., None]


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a log that the settings name, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHATPORT_DATABASE", "sqlite:///log.db")
    return tmp_path / "log.db"


@pytest.fixture
def store(database: Path) -> Iterator[PeeweeStore]:
    with closing(PeeweeStore(database)) as store:
        store.check()
        yield store


@pytest.fixture
def ask(store: PeeweeStore) -> Ask:
    """Return what puts an ended exchange into the log."""
    numbers = iter(range(1_000_000))

    def ask(
        caller: str = "shop",
        user: str = "ada",
        *,
        model: str = "m",
        at: datetime = NOON,
        tokens: tuple[int, int] = (10, 5),
        cost: int | None = CENT,
        failed: bool = False,
        estimated: bool = False,
    ) -> None:
        exchange = Exchange(
            id=f"e{next(numbers)}",
            caller=caller,
            user_id=user,
            route="test",
            model=model,
            prompt="prompt",
            started_at=at,
            lease_until=at + DAY,
        )
        store.begin(exchange, HistoryBounds())
        store.finish(
            replace(
                exchange,
                state=State.FAILED if failed else State.COMPLETED,
                finished_at=at,
                usage=Usage(
                    prompt_tokens=tokens[0], completion_tokens=tokens[1], estimated=estimated
                ),
                nanodollars=cost,
            )
        )

    return ask


def run(*arguments: str, width: int = 100, charset: str = "utf-8") -> Result:
    return CliRunner(charset=charset, env={"COLUMNS": str(width)}).invoke(
        main, ["usage", *arguments]
    )


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def objects(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(result)]


def names(*arguments: str) -> list[str]:
    return [row["name"] for row in objects(run("--json", *arguments))]


def test_usage_is_a_table_with_bars_and_a_total(ask: Ask) -> None:
    for _ in range(8):
        ask("shop", tokens=(150_000, 1000), cost=100 * CENT)
    ask("blog", tokens=(7, 3), cost=100 * CENT, failed=True)
    assert lines(run()) == [
        "caller  calls  failed  tokens in  tokens out  USD  by cost",
        "shop        8       0  1,200,000       8,000    8  ██████████████████████████████",
        "blog        1       1          7           3    1  ███▊",
        "total       9       1  1,200,007       8,003    9",
    ]


def test_what_is_tiny_beside_the_largest_has_a_bar_and_what_is_nothing_has_none(ask: Ask) -> None:
    ask("large", cost=10**15)
    ask("tiny", cost=1)
    ask("nothing", cost=0)
    _, large, tiny, nothing, _ = lines(run())
    assert large.endswith("  1000000  ██████████████████████████████")
    assert tiny.endswith("  0.000000001  ▏")
    assert nothing.endswith("  0")


def test_without_any_cost_the_bars_are_of_tokens(ask: Ask) -> None:
    ask("shop", tokens=(20, 20), cost=0)
    ask("blog", tokens=(10, 10), cost=0)
    header, shop, blog, _ = lines(run())
    assert header.endswith("  by tokens")
    assert (shop.count("█"), blog.count("█")) == (30, 15)


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_block_elements_gets_number_signs(ask: Ask, charset: str) -> None:
    ask("shop", cost=3 * CENT)
    ask("blog", cost=1)
    result = run(charset=charset)
    _, shop, blog, _ = lines(result)
    assert shop.endswith("  0.03  ##############################")
    assert blog.endswith("  #")
    assert result.stdout.isascii()


def test_a_name_that_the_terminal_has_no_characters_for_is_escaped(ask: Ask) -> None:
    ask(model="模型")
    assert lines(run("--by", "model", charset="ascii"))[1].startswith("\\u6a21\\u578b ")


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_width_of_the_terminal(ask: Ask, store: PeeweeStore, width: int) -> None:
    ask(model="m" * 500, tokens=(123_456_789, 98_765_432), cost=123_450_000_000, estimated=True)
    ask(model="n", cost=None)
    store.count_refusal("shop", "user 20 requests per minute" * 9, NOON)
    table = lines(run("--by", "model", width=width))
    assert max(map(len, table)) <= width
    assert "~123.45" in "".join(table)


def test_bars_go_before_a_number_is_cut(ask: Ask) -> None:
    ask(model="m" * 60, cost=123_456_789_012)
    _, row, _ = lines(run("--by", "model", width=40))
    assert row == "mmmmmmm…      1       0         10           5  123.456789012"


def test_estimates_and_unknown_prices_have_signs_that_are_explained(ask: Ask) -> None:
    ask("shop", cost=3 * CENT, estimated=True)
    ask("blog", cost=2 * CENT)
    ask("blog", cost=None)
    ask("crm", cost=None)
    _, shop, blog, crm, total, _, *notes = lines(run(width=160))
    assert shop.rstrip("█").endswith("  ~0.03  ")
    assert "  0.02 + 1 unpriced  " in blog
    assert crm.endswith("  price unknown")
    assert total.endswith("  ~0.05 + 2 unpriced")
    assert notes == [
        "~ holds an estimate: for some calls the provider sent no token counts.",
        (
            "Unpriced calls are in no sum: chatport does not know what their model costs."
            " The file of CHATPORT_PRICES can say it."
        ),
    ]


def test_where_there_are_no_signs_nothing_is_explained(ask: Ask) -> None:
    ask()
    assert "~" not in run().stdout
    assert "npriced" not in run().stdout
    ask(estimated=True)
    assert "~ holds" in run().stdout
    assert "npriced" not in run().stdout


def test_an_estimate_without_any_price_needs_no_sign(ask: Ask) -> None:
    ask(cost=None, estimated=True)
    shown = run().stdout
    assert "price unknown" in shown
    assert "Unpriced calls" in shown
    assert "~" not in shown


def test_the_total_is_of_what_is_not_shown_too(ask: Ask) -> None:
    for n in range(5):
        ask(f"caller{n}", cost=(9 - n) * CENT)
    shown = lines(run("--limit", "2"))
    assert [line.split()[0] for line in shown[1:4]] == ["caller0", "caller1", "total"]
    assert shown[3].split()[1:] == ["5", "0", "50", "25", "0.35"]
    assert shown[4:] == ["", "3 more, which are in the total: see --limit."]


def test_usage_is_added_up_by_what_is_asked_for(ask: Ask) -> None:
    ask("shop", "ada", model="m-1", at=NOON)
    ask("shop", "bob", model="m-2", at=NOON + DAY, cost=5 * CENT)
    ask("blog", "ada", model="m-2", at=NOON, cost=3 * CENT)
    assert names() == ["shop", "blog"]
    assert names("--by", "user") == ["shop/bob", "blog/ada", "shop/ada"]
    assert names("--by", "model") == ["m-2", "m-1"]
    assert names("--by", "day") == ["2026-11-24", "2026-11-23"]
    assert names("--by", "user", "--caller", "blog") == ["blog/ada"]
    assert names("--by", "user", "--limit", "1") == ["shop/bob"]


def test_a_span_is_of_days_or_of_an_age(ask: Ask) -> None:
    now = datetime.now(UTC)
    ask("today", at=now)
    ask("lately", at=now - 3 * DAY)
    ask("before", at=now - 30 * DAY)
    assert sorted(names()) == ["before", "lately", "today"]
    assert sorted(names("--since", "7d")) == ["lately", "today"]
    assert sorted(names("--since", f"{now - 30 * DAY:%Y-%m-%d}")) == ["before", "lately", "today"]
    assert names("--since", "30d", "--until", "4d") == ["before"]
    assert names("--until", f"{now - 30 * DAY:%Y-%m-%d}") == ["before"]
    assert sorted(names("--since", "0")) == ["today"]


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize(
    "value",
    ["", "yesterday", "2026-02-30", "2026-1-1", "20261123", "7", "-7d", "\u0667d", "99999999w"],
)
def test_a_day_that_is_none_is_exit_code_2(ask: Ask, option: str, value: str) -> None:
    ask()
    result = run(f"{option}={value}")
    assert result.exit_code == 2
    assert "must be a day such as 2026-11-23, or an age such as 7d or 12h." in result.stderr


def test_a_row_is_one_flat_object(ask: Ask) -> None:
    ask(cost=1_250_000_000)
    ask(cost=0)
    ask(cost=None, estimated=True, failed=True)
    assert objects(run("--json")) == [
        {
            "name": "shop",
            "calls": 3,
            "failed": 1,
            "prompt_tokens": 30,
            "cached_tokens": 0,
            "completion_tokens": 15,
            "estimated_calls": 1,
            "unpriced_calls": 1,
            "cost_usd": "1.25",
        }
    ]


def test_csv_has_a_header_and_quotes_what_needs_it(ask: Ask) -> None:
    ask(model='a, "b"\nc')
    result = run("--by", "model", "--csv")
    assert lines(result)[0] == (
        "name,calls,failed,prompt_tokens,cached_tokens,completion_tokens,"
        "estimated_calls,unpriced_calls,cost_usd"
    )
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert (row["name"], row["calls"], row["cost_usd"]) == ('a, "b"\nc', "1", "0.01")


FULL_WIDTH = "\uff1d\uff0b\uff0d\uff20"
SMALL = "\ufe66\ufe62\ufe63\ufe6b"
BEFORE_A_SIGN = [" =", " \u00a0@", "\u3000+", "\u200d=", " \uff1d"]


@pytest.mark.parametrize(
    "first", [*"=+-@\t\n\u2212", *FULL_WIDTH, *SMALL, *BEFORE_A_SIGN], ids=ascii
)
def test_no_name_is_a_formula(ask: Ask, first: str) -> None:
    ask(model=f"{first}cmd|' /C calc'!A1")
    (row,) = csv.DictReader(io.StringIO(run("--by", "model", "--csv").stdout))
    assert row["name"] == f"'{first}cmd|' /C calc'!A1"


def test_only_a_formula_gets_a_quote(ask: Ask) -> None:
    ask(user="@ada", model=" gpt=1")
    for by, name in [("user", "shop/@ada"), ("model", " gpt=1")]:
        (row,) = csv.DictReader(io.StringIO(run("--by", by, "--csv").stdout))
        assert row["name"] == name


def test_json_and_csv_at_once_is_exit_code_2(ask: Ask) -> None:
    ask()
    result = run("--json", "--csv")
    assert result.exit_code == 2
    assert "Choose --json or --csv." in result.stderr


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv"]])
def test_nothing_used_says_so_and_is_no_failure(store: PeeweeStore, options: list[str]) -> None:
    result = run(*options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nothing was used.\n")


def test_refusals_stand_below_gathered_by_rule_the_newest_first(
    ask: Ask, store: PeeweeStore
) -> None:
    ask()
    rule = "user 20 requests per minute"
    for minute in (0, 1, 1, 5):
        store.count_refusal("shop", rule, NOON + timedelta(minutes=minute))
    store.count_refusal("anonymous", "login", NOON + timedelta(minutes=7))
    assert lines(run())[-4:] == [
        "",
        "refused    rule                         times  last, UTC",
        "anonymous  login                            1  2026-11-23 12:07",
        "shop       user 20 requests per minute      4  2026-11-23 12:05",
    ]


def test_refusals_are_those_of_the_span_and_the_caller(ask: Ask, store: PeeweeStore) -> None:
    for days in range(3):
        ask(at=NOON + days * DAY)
        store.count_refusal("shop", f"rule {days}", NOON + days * DAY)
    store.count_refusal("blog", "rule of another", NOON + DAY)

    def rules(*arguments: str) -> list[str]:
        return [f"rule {n}" for n in range(3) if f"rule {n}" in run(*arguments).stdout]

    assert rules() == ["rule 0", "rule 1", "rule 2"]
    assert rules("--since", "2026-11-24") == ["rule 1", "rule 2"]
    assert rules("--until", "2026-11-24") == ["rule 0", "rule 1"]
    assert rules("--since", "2026-11-24", "--until", "2026-11-24") == ["rule 1"]
    assert "another" in run().stdout
    assert "another" not in run("--caller", "shop").stdout


def test_refusals_are_shown_where_nothing_was_used(store: PeeweeStore) -> None:
    store.count_refusal("shop", "login", NOON)
    result = run()
    assert result.stderr == "Nothing was used.\n"
    assert lines(result)[-1] == "shop     login      1  2026-11-23 12:00"


def test_only_the_newest_ten_rules_are_shown(ask: Ask, store: PeeweeStore) -> None:
    ask()
    for n in range(12):
        store.count_refusal("shop", f"rule-{n:02}", NOON + timedelta(minutes=n))
    shown = lines(run())
    assert shown[-2].split()[:2] == ["shop", "rule-02"]
    assert shown[-1] == "2 more rules refused before that: see --until and --caller."


def test_an_erased_user_is_called_so(ask: Ask, store: PeeweeStore) -> None:
    ask()
    store.erase("shop", "ada")
    assert lines(run("--by", "user"))[1].startswith("shop/(erased)  ")
    assert names("--by", "user") == ["shop/"]


@pytest.mark.parametrize("options", [[], ["--csv"], ["--json"]])
def test_no_name_can_command_the_terminal(ask: Ask, store: PeeweeStore, options: list[str]) -> None:
    ask(model=HOSTILE)
    store.count_refusal("shop", HOSTILE, NOON)
    result = run("--by", "model", *options)
    assert "word" in "".join(lines(result))
    unseen = {"Cc", "Cf", "Zl", "Zp"}
    assert {char for char in result.stdout if unicodedata.category(char) in unseen} == {"\n"}


def test_json_holds_a_name_unchanged(ask: Ask) -> None:
    ask(model=HOSTILE)
    assert names("--by", "model") == [HOSTILE]


def test_without_a_log_there_is_nothing_to_read(database: Path) -> None:
    result = run()
    assert result.exit_code == 1
    assert result.stderr == "chatport: there is no log yet: log.db does not exist.\n"
    assert not database.exists()


def test_a_log_in_memory_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPORT_DATABASE", "memory:")
    result = run()
    assert result.exit_code == 2
    assert result.stderr == "chatport: CHATPORT_DATABASE=memory: keeps no log that could be read.\n"


def test_a_damaged_log_is_exit_code_3(database: Path) -> None:
    database.write_bytes(b"this is no database, and never was" * 100)
    assert run().exit_code == 3
