"""The records check themselves."""

from datetime import UTC, datetime

import pytest

import chatport.domain
from chatport.domain import ChatRequest, Exchange, Limit, State
from chatport.domain.errors import InvalidField, InvalidUnicode, InvalidUserId

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t\u2003"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidField, match=r"^prompt must not be empty\.$"):
        ChatRequest(prompt=prompt)


@pytest.mark.parametrize("prompt", ["a\x00b", "\ud800", "x\udfff"])
def test_text_that_no_database_keeps_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidUnicode) as refused:
        ChatRequest(prompt=prompt)
    assert (refused.value.code, refused.value.field) == ("invalid_unicode", "prompt")


@pytest.mark.parametrize("user_id", ["a", "A-Z.a_z@0:9", "x" * 128])
def test_plain_user_ids_are_accepted(user_id: str) -> None:
    assert ChatRequest(prompt="x", user_id=user_id).user_id == user_id


@pytest.mark.parametrize(
    "user_id",
    ["", "x" * 129, "../ada", "a/b", "a b", "ada\n", "a\x00", "\u202eada", "é", "😀", "'", "%00"],
)
def test_other_user_ids_are_refused(user_id: str) -> None:
    with pytest.raises(InvalidUserId) as refused:
        ChatRequest(prompt="x", user_id=user_id)
    assert refused.value.code == "invalid_user_id"


@pytest.mark.parametrize(("amount", "seconds"), [(0, 60), (1, 0), (-1, 60)])
def test_a_limit_allows_something_in_some_time(amount: int, seconds: int) -> None:
    with pytest.raises(ValueError):
        Limit(amount=amount, window_seconds=seconds)


@pytest.mark.parametrize(("state", "finished_at"), [(State.OPEN, NOON), (State.COMPLETED, None)])
def test_an_exchange_is_finished_exactly_when_it_is_not_open(
    state: State, finished_at: datetime | None
) -> None:
    with pytest.raises(ValueError, match="finished_at"):
        Exchange(
            id="1",
            caller="c",
            user_id="u",
            route="r",
            model="m",
            prompt="p",
            started_at=NOON,
            lease_until=NOON,
            state=state,
            finished_at=finished_at,
        )


def test_the_public_names_are_sorted_and_there() -> None:
    names = chatport.domain.__all__
    assert names == sorted(names)
    assert all(hasattr(chatport.domain, name) for name in names)
