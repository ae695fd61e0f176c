"""Which text every database can keep."""

import re

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL ends strings in C libraries; PostgreSQL refuses it. Surrogates cannot be encoded as UTF-8."""


def is_storable(text: str) -> bool:
    """Return whether every database can keep the text; quicker than a look for UNSTORABLE."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def storable(text: str) -> str:
    """Join surrogate pairs that came in two pieces, and replace what no database can store."""
    if not UNSTORABLE.search(text):
        return text
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return UNSTORABLE.sub("�", joined)
