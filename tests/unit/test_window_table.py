"""The table of windows: what was taken can be given back, in the window in which it was taken."""

import pytest

from chatport.adapters import WindowTable

EXPIRY = 10


class Windows:
    """One key's windows, and a clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.table = WindowTable(slots=64, monotonic=lambda: self.now)
        assert self.table.acquire_sliding_window_entry("key", 9, EXPIRY, 5)

    def correct(self, difference: int) -> tuple[int, int]:
        """Correct what was taken at first, and return what counts of both windows."""
        self.table.correct("key", EXPIRY, 100.0, difference)
        previous, _, current, _ = self.table.get_sliding_window("key", EXPIRY)
        return previous, current


@pytest.mark.parametrize(("difference", "left"), [(-2, 3), (4, 9), (-5, 0), (-7, 0)])
def test_what_was_taken_is_corrected_and_stays_above_0(difference: int, left: int) -> None:
    windows = Windows()
    assert windows.correct(difference) == (0, left)
    windows = Windows()
    windows.now += EXPIRY
    windows.table.acquire_sliding_window_entry("key", 9, EXPIRY, 1)
    assert windows.correct(difference) == (left, 1)


def test_what_counts_no_more_is_not_corrected() -> None:
    windows = Windows()
    windows.now += 2 * EXPIRY
    assert windows.table.acquire_sliding_window_entry("key", 9, EXPIRY, 2)
    assert windows.correct(-1) == (0, 2)
