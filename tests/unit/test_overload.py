"""How many completions may be answered at once."""

import pytest

from chatport.domain.errors import Overloaded
from chatport.entrypoints.overload import Overload


def test_no_more_requests_are_taken_than_may_be_in_flight() -> None:
    overload = Overload(1)
    overload.enter()
    with pytest.raises(Overloaded):
        overload.enter()
    overload.leave()
    overload.enter()


def test_what_a_process_had_in_flight_is_forgotten_with_it() -> None:
    overload = Overload(2)
    for number in (1, 2):
        overload.before_fork(number)
        overload.enter()
    with pytest.raises(Overloaded):
        overload.check()
    overload.end_process(1)
    overload.check()


def test_what_one_process_counts_outlives_any_number_of_others() -> None:
    overload = Overload(1)
    overload.before_fork(0)
    overload.enter()
    for number in range(1, 2000):
        overload.before_fork(number)
        overload.end_process(number)
    with pytest.raises(Overloaded):
        overload.check()
