"""Checks of the two sides of the door: where chatport listens, and the provider behind it."""

import ipaddress
import socket
import sys
from urllib.parse import urlsplit

from chatport.domain.errors import ChatportError, UpstreamAuthFailed

from .doctor_findings import Check, Finding, Skip, error, ok, warning
from .doctor_installation import Installation

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def address(installation: Installation) -> Finding:
    """Look whether strangers could use the server."""
    host = installation.around.serving.host
    if installation.around.serving.loopback:
        return ok(f"{host} is reached from this machine only")
    if not installation.callers:
        return error(
            f"{host} is reached from other machines, and there is no key to keep strangers out",
            "Make one: chatport keys create NAME; or listen on 127.0.0.1.",
        )
    return ok(f"{host} is reached from other machines, with a key")


def port(installation: Installation) -> Finding:
    """Look whether the server could listen."""
    serving = installation.around.serving
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    with socket.socket(family) as probe:
        if sys.platform != "win32":  # where it would let a taken port pass
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((serving.host, serving.port))
        except OSError as fault:
            return warning(
                f"{serving.host}:{serving.port}: {fault.strerror}",
                "If that is not chatport itself, choose another with --host or --port.",
            )
    return ok(f"{serving.host}:{serving.port} is free")


def proxies(installation: Installation) -> Finding:
    """Look for proxies that an operator may believe to be used."""
    environment = installation.around.environment
    found = [name for name in environment if name.upper() in PROXIES and environment[name]]
    if found:
        advice = "chatport calls the provider directly; use a gateway as OPENAI_BASE_URL instead."
        return warning(f"{', '.join(sorted(found))} is not used", advice)
    return ok("no proxy is set")


def encrypted(installation: Installation) -> Finding:
    """Look whether the key and the prompts go over the network in the clear."""
    clear = [
        each.url
        for each in installation.upstreams
        if each.url.startswith("http:") and not _is_here(_host(each.url))
    ]
    if clear:
        return error(f"{', '.join(clear)} is not encrypted", "Use https for the provider.")
    return ok("the provider is called over https, or on this machine")


def resolved(installation: Installation) -> Finding:
    """Look whether the provider's name is known."""
    for each in installation.reachable:
        try:
            installation.around.resolve(_host(each.url))
        except OSError:
            advice = "Check the name in OPENAI_BASE_URL or CHATPORT_UPSTREAMS, and the DNS."
            return error(f"{_host(each.url)} is not known", advice)
    return ok("the provider's name is known")


def answers(installation: Installation) -> Finding:
    """Look whether each provider answers, and takes the key."""
    for each in installation.reachable:
        if each.key is None:
            raise Skip("a provider has no key")
        fault = installation.models(each)
        if isinstance(fault, UpstreamAuthFailed):
            return error(f"{each.url} refuses the key", "Put a valid key into the settings.")
        if isinstance(fault, ChatportError):
            status = f", status {fault.upstream_status}" if fault.upstream_status else ""
            advice = "Check the address, the network and the provider's own status page."
            return error(f"{each.url} gives no models: {fault.code}{status}", advice)
    return ok("the provider answers and takes the key")


def model(installation: Installation) -> Finding:
    """Look whether the provider has the model."""
    first = installation.reachable[0]
    if first.key is None:
        raise Skip("the provider has no key")
    found = installation.models(first)
    if isinstance(found, ChatportError):
        raise Skip("the provider did not say")
    if installation.settings.model not in found:
        advice = "Choose one that GET /models lists, with CHATPORT_MODEL."
        return error(f"the provider does not list {installation.settings.model}", advice)
    return ok(f"the provider has {installation.settings.model}")


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


CHECKS = (
    Check("network.address", "Who reaches the server", address),
    Check("network.port", "Port", port),
    Check("network.proxies", "Proxies", proxies),
    Check("network.encrypted", "Encryption", encrypted),
    Check("network.resolved", "Name of the provider", resolved),
    Check("network.answers", "Provider", answers),
    Check("network.model", "Model of the provider", model),
)
