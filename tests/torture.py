"""How hard to try: a little in each test run, and for hours before a release (`make torture`)."""

import os

TORTURE = os.environ.get("TORTURE") == "1"


def times(each_run: int, before_release: int) -> int:
    """Return how many rounds, examples or seconds a test is to go on for."""
    return before_release if TORTURE else each_run
