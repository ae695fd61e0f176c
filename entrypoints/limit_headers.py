"""OpenAI's rate limit headers, since its clients read them."""

from chatport.domain.allowance import Allowance


def limit_headers(allowance: Allowance | None) -> dict[str, str]:
    """Return the headers for the limit that is nearest to refusing; none without limits."""
    if allowance is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(allowance.charge.limit.amount),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": duration(allowance.reset_seconds),
    }


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
