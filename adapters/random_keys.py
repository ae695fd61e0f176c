"""The randomness in API keys."""

import secrets


def random_key_id() -> str:
    """Return 64 random bits as 16 hexadecimal digits; they name a key, and protect nothing."""
    return secrets.token_hex(8)


def random_secret() -> str:
    """Return 256 random bits in the alphabet of URLs."""
    return secrets.token_urlsafe(32)
