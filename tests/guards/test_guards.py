"""Each guard is taken out of a copy of chatport, and the tests must notice."""

import sys

import pytest

from torture import TORTURE

from .removal import Copy, removed
from .table import FIRST, GUARDS, Guard

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the runs are forks")

TAKEN = GUARDS if TORTURE else FIRST
MISTAKE = Guard(
    name="none",
    file="domain/chat.py",
    old="class ChatService",
    new="class Nobody",
    caught_by=("unit/test_chat_service.py",),
)
NO_GUARD = Guard(
    name="none",
    file="domain/chat.py",
    old='"""Return 64 characters',
    new='"""Return  64 characters',
    caught_by=("unit/test_overload.py",),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


def test_with_all_guards_the_same_tests_pass(copy: Copy) -> None:
    outcome = copy.run(*dict.fromkeys(test for guard in TAKEN for test in guard.caught_by))
    assert outcome.passed, outcome.printed


@pytest.mark.parametrize("guard", TAKEN, ids=lambda guard: guard.name)
def test_without_its_guard_a_test_fails(guard: Guard, copy: Copy) -> None:
    with copy.without(guard):
        outcome = copy.run(*guard.caught_by)
    assert outcome.caught, outcome.printed


def test_each_guard_has_a_name_and_a_place_of_its_own() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)
    assert len({(guard.file, guard.old, guard.new) for guard in GUARDS}) == len(GUARDS)


def test_what_changes_nothing_or_breaks_everything_is_not_caught(copy: Copy) -> None:
    for guard in (NO_GUARD, MISTAKE):
        with copy.without(guard):
            assert not copy.run(*guard.caught_by).caught, guard


@pytest.mark.parametrize("code", ["", "twice() twice()"])
def test_a_guard_that_has_moved_is_missed(code: str) -> None:
    guard = Guard(name="moved", file="domain/chat.py", old="twice()", new="", caught_by=())
    with pytest.raises(AssertionError, match="has moved on"):
        removed(guard, code)
