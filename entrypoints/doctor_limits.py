"""Checks of what holds back abuse: limits, budgets, callers and their keys."""

from collections.abc import Iterator

from chatport.adapters import GenaiPriceList, Price, PriceFileError, read_prices
from chatport.domain.callers import Caller, Role
from chatport.domain.keys import ApiKey
from chatport.domain.model import Usage
from chatport.domain.rules import Budget, Unit

from .doctor_findings import Check, Finding, Skip, error, ok, warning
from .doctor_installation import Installation

ONE_TOKEN = Usage(prompt_tokens=1, completion_tokens=1)
SHOWN = 5


def user_limit(installation: Installation) -> Finding:
    """Look whether one user can take all."""
    if not installation.settings.user_limit:
        return warning("a user has no limit", "Set CHATPORT_USER_LIMIT, such as 20/minute.")
    return ok(_joined(map(str, installation.settings.user_limit)))


def total_limit(installation: Installation) -> Finding:
    """Look whether all together have a limit: one user can have many names."""
    if not installation.settings.total_limit:
        advice = "Set CHATPORT_TOTAL_LIMIT, such as 300/minute: user ids cost nothing."
        return warning("all users together have no limit", advice)
    return ok(_joined(map(str, installation.settings.total_limit)))


def budget(installation: Installation) -> Finding:
    """Look whether anything bounds the bill."""
    if not any(_budgets(installation)):
        advice = "Set CHATPORT_TOTAL_BUDGET, such as 5 USD/day."
        return warning("nothing bounds what the provider may cost", advice)
    return ok("there is a budget")


def known_price(installation: Installation) -> Finding:
    """Look whether a budget in money can be counted."""
    settings, upstreams = installation.settings, installation.upstreams
    if not any(each.unit is Unit.USD for each in _budgets(installation)):
        raise Skip("there is no budget in USD")
    prices = GenaiPriceList(base_url=upstreams[0].url, overrides=_own_prices(installation))
    names = [settings.model, *settings.models]
    unpriced = sorted({name for name in names if prices.cost(name, ONE_TOKEN) is None})
    if unpriced:
        advice = "Put its price into a file, and the file into CHATPORT_PRICES; see the README."
        return error(f"a budget is in USD, and no price is known of {_joined(unpriced)}", advice)
    return ok("the price of each model is known")


def output(installation: Installation) -> Finding:
    """Look whether a budget knows how long an answer can get."""
    if any(_budgets(installation)) and installation.settings.max_output_tokens is None:
        advice = "Set CHATPORT_MAX_OUTPUT_TOKENS: a longer answer than 4096 passes the budget."
        return warning("there is a budget, and answers have no bound", advice)
    return ok("answers have a bound, or no budget needs one")


def admin(installation: Installation) -> Finding:
    """Look whether anybody may use the routes for admins."""
    callers = _callers(installation)
    if not any(caller.role is Role.ADMIN and _good(installation, keys) for caller, keys in callers):
        advice = "Make one: chatport keys create NAME --admin"
        return warning("no caller with a good key is an admin", advice)
    return ok("there is an admin")


def usable_keys(installation: Installation) -> Finding:
    """Look for callers that can no longer come in."""
    callers = _callers(installation)
    out = [caller.name for caller, keys in callers if not _good(installation, keys)]
    if out:
        advice = "Give them another: chatport keys rotate NAME"
        return warning(f"all keys are expired or revoked of {_joined(out)}", advice)
    return ok("each caller has a good key")


def expiring_keys(installation: Installation) -> Finding:
    """Look for keys that are good for ever."""
    for_ever = [
        caller.name
        for caller, keys in _callers(installation)
        if any(key.expires_at is None for key in _good(installation, keys))
    ]
    if for_ever:
        advice = "Replace them now and then: chatport keys rotate NAME --expires 90d"
        return warning(f"keys never expire of {_joined(for_ever)}", advice)
    return ok("every key expires")


def _own_prices(installation: Installation) -> dict[str, Price]:
    if installation.settings.prices is None:
        return {}
    try:
        return read_prices(installation.around.folder / installation.settings.prices)
    except PriceFileError:
        raise Skip("the file of own prices cannot be used") from None


def _budgets(installation: Installation) -> Iterator[Budget]:
    settings = installation.settings
    yield from (*settings.user_budget, *settings.caller_budget, *settings.total_budget)
    for caller, _ in installation.callers:
        yield from (*(caller.budgets or ()), *(caller.user_budgets or ()))


def _callers(installation: Installation) -> list[tuple[Caller, list[ApiKey]]]:
    if not installation.callers:
        raise Skip("there are no callers")
    return installation.callers


def _good(installation: Installation, keys: list[ApiKey]) -> list[ApiKey]:
    return [key for key in keys if key.is_good(installation.around.now)]


def _joined(names: "Iterator[str] | list[str]") -> str:
    """Return the first of the names."""
    all_names = list(names)
    more = len(all_names) - SHOWN
    return ", ".join(all_names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


CHECKS = (
    Check("limits.user", "Limit of each user", user_limit),
    Check("limits.total", "Limit of all", total_limit),
    Check("limits.budget", "Budget", budget),
    Check("limits.price", "Prices for budgets", known_price),
    Check("limits.output", "Length of answers", output),
    Check("callers.admin", "Admin", admin),
    Check("callers.usable", "Good keys", usable_keys),
    Check("callers.expiring", "Expiry of keys", expiring_keys),
)
