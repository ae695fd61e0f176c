"""How hard to try: a little in each test run, all in `make check`, for hours in `make torture`."""

import os

TORTURE = os.environ.get("TORTURE") == "1"
THOROUGH = TORTURE or os.environ.get("THOROUGH") == "1"


def times(each_run: int, before_release: int) -> int:
    """Return how many rounds, examples or seconds a test is to go on for."""
    return before_release if TORTURE else each_run
