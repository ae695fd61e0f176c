"""Checks of the settings: whether they can be used, fit together, and keep their secrets."""

import re
import stat

from chatport.adapters import PriceFileError, read_prices

from .database_name import GONE
from .doctor_findings import Check, Finding, Skip, error, ok, warning
from .doctor_installation import UNKNOWN, Installation
from .setting_values import KEY

OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
SHORTEST_KEY = 16
"""OpenAI's have 51 and more, and those of other providers at least 32 characters."""

SHORTEST_SECONDS, LONGEST_SECONDS = 10, 900
LARGEST_BODY = 100_000_000
MOST_HOPS = 3
MAY_BE_KEY = re.compile("CHATPORT_UPSTREAMS names .* for a key")
"""Whoever puts the key itself in the place of its variable must not see it printed."""

NO_VARIABLE = "CHATPORT_UPSTREAMS names a variable for a key, and that is not set."


def valid(installation: Installation) -> Finding:
    """Look whether the settings can be used."""
    problems = [problem for problem in installation.problems if UNKNOWN not in problem]
    if problems:
        said = (NO_VARIABLE if MAY_BE_KEY.match(problem) else problem for problem in problems)
        return error(" ".join(said), "Correct them; chatport serve --check prints them.")
    return ok("all values are valid")


def known(installation: Installation) -> Finding:
    """Look for settings that chatport does not have."""
    problems = [problem for problem in installation.problems if UNKNOWN in problem]
    if problems:
        return error(" ".join(problems), "Correct the name, or unset it.")
    return ok("all names are known")


def key(installation: Installation) -> Finding:
    """Look whether each provider has a key."""
    if any(upstream.key is None for upstream in installation.upstreams):
        return error("a provider has no key", f"Set {KEY}, or serve with --offline.")
    return ok("each provider has a key")


def key_form(installation: Installation) -> Finding:
    """Look whether the keys look like some."""
    keys = [each.key.reveal() for each in installation.upstreams if each.key is not None]
    if not keys:
        raise Skip("there is no key")
    if any(len(each) < SHORTEST_KEY or "..." in each for each in keys):
        return warning("a key is too short to be one", f"Put the provider's own key in {KEY}.")
    return ok("the keys look like keys")


def dotenv_mode(installation: Installation) -> Finding:
    """Look whether others can read the keys in the file of settings."""
    if not installation.dotenv.exists():
        return ok("there is no file .env")
    if installation.dotenv.stat().st_mode & OTHERS:
        return error("others may read .env", "chmod 600 .env")
    return ok("only its owner can read .env")


def dotenv_folder(installation: Installation) -> Finding:
    """Look whether others could put another file in its place, with a provider of their own."""
    if not installation.around.folder.is_absolute():
        return error(GONE, "Start chatport in a folder that is there.")
    mode = installation.around.folder.stat().st_mode
    if mode & OTHERS_WRITE and not mode & stat.S_ISVTX:
        return error(
            "others may write into the current folder, where .env is read",
            "Start chatport in a folder of its own: chmod go-w .",
        )
    return ok("only its owner writes into the current folder")


def model(installation: Installation) -> Finding:
    """Look whether clients may name the model that answers."""
    settings = installation.settings
    if settings.models and settings.model not in settings.models:
        advice = "Add it to CHATPORT_MODELS, unless /v1 shall not offer it."
        return warning("CHATPORT_MODELS is without CHATPORT_MODEL", advice)
    return ok(f"{settings.model} answers")


def sizes(installation: Installation) -> Finding:
    """Look whether the longest prompt fits into the largest request."""
    settings = installation.settings
    if settings.max_prompt_bytes >= settings.max_body_bytes:
        advice = "Raise CHATPORT_MAX_BODY_BYTES, or lower CHATPORT_MAX_PROMPT_BYTES."
        return error("the longest prompt does not fit into the largest request", advice)
    if settings.max_body_bytes > LARGEST_BODY:
        advice = "Lower CHATPORT_MAX_BODY_BYTES: each request may take that much memory."
        return warning(f"a request may have {settings.max_body_bytes:,} bytes", advice)
    return ok(f"prompts up to {settings.max_prompt_bytes:,} bytes")


def timeout(installation: Installation) -> Finding:
    """Look whether answers have time to come, and callers hear of it when none does."""
    given = installation.settings.timeout_seconds
    found = f"an answer may take {given:g} s"
    if not SHORTEST_SECONDS <= given <= LONGEST_SECONDS:
        return warning(found, "Set CHATPORT_TIMEOUT_SECONDS to something from 10 to 900.")
    return ok(found)


def prices(installation: Installation) -> Finding:
    """Look whether the operator's own prices can be read."""
    if installation.settings.prices is None:
        return ok("there is no file of own prices")
    try:
        count = len(read_prices(installation.around.folder / installation.settings.prices))
    except PriceFileError as found:
        return error(" ".join(found.problems), "Correct the file that CHATPORT_PRICES names.")
    return ok(f"{count} prices of your own")


def proxy_hops(installation: Installation) -> Finding:
    """Look whether a header that anybody can write is believed."""
    hops = installation.settings.proxy_hops
    if hops and not installation.around.serving.loopback:
        return warning(
            f"X-Forwarded-For is believed ({hops} hops), and the server can be reached directly",
            "Let only the proxy reach the port, best on 127.0.0.1, or unset CHATPORT_PROXY_HOPS.",
        )
    if hops > MOST_HOPS:
        return warning(f"{hops} proxies are believed", "Count the proxies; one is usual.")
    return ok(f"{hops} proxies are believed")


CHECKS = (
    Check("settings.valid", "Values of settings", valid),
    Check("settings.known", "Names of settings", known),
    Check("settings.key", "Key of the provider", key),
    Check("settings.key_form", "Form of the key", key_form),
    Check("settings.dotenv_mode", "Who reads .env", dotenv_mode),
    Check("settings.dotenv_folder", "Who replaces .env", dotenv_folder),
    Check("settings.model", "Model", model),
    Check("settings.sizes", "Sizes", sizes),
    Check("settings.timeout", "Timeout", timeout),
    Check("settings.prices", "Own prices", prices),
    Check("settings.proxy_hops", "Trust in proxies", proxy_hops),
)
