"""Turns of those who share a process."""

import time

TURN_SECONDS = 1e-6
"""More than nothing: gevent calls fifty of those who gave their turn away for nothing, and be it
one of them fifty times, before it looks who has something to read."""


def let_others_run() -> None:
    """Go on when all others who can go on have had their turn."""
    time.sleep(TURN_SECONDS)
