"""OpenAI's rate limit headers, since its clients read them."""

import math
from collections.abc import Sequence

from chatport.domain.allowance import Allowance
from chatport.domain.rules import Unit


def limit_headers(allowances: Sequence[Allowance]) -> dict[str, str]:
    """Return the headers for the limits that are nearest to refusing, of requests and of tokens."""
    headers: dict[str, str] = {}
    for unit in (Unit.REQUESTS, Unit.TOKENS):
        counted = [each for each in allowances if each.charge.limit.unit is unit]
        if counted:
            nearest = min(counted, key=lambda each: each.remaining)
            headers[f"x-ratelimit-limit-{unit}"] = str(nearest.charge.limit.amount)
            headers[f"x-ratelimit-remaining-{unit}"] = str(nearest.remaining)
            if math.isfinite(nearest.reset_seconds):  # else waiting does not help at all
                headers[f"x-ratelimit-reset-{unit}"] = duration(nearest.reset_seconds)
    return headers


def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `12ms`, `1s`, `6m0s`, `1h0m0s`; rounded up."""
    milliseconds = -int(-seconds * 1000 // 1)
    if milliseconds < 1000:  # noqa: PLR2004  # below a second
        return f"{milliseconds}ms"
    whole = -(-milliseconds // 1000)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
