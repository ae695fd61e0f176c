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
