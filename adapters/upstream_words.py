"""What the provider says about a failure: what the client may read, and what the log keeps."""

import hashlib
import html
import json
import re
import unicodedata
from base64 import b64encode
from functools import lru_cache
from typing import Any

PASSED_ON = frozenset({400, 404, 413, 422})
"""The statuses that say what the client did wrong, which a developer needs to read."""

KEY_LIKE = re.compile(
    r"\bsk[-_][\w*.\-]{4,}"
    r"|\b(?:pk|rk|gsk|xai|hf|r8|cp|sess|org|proj)[-_](?=[\w\-]{0,100}\d)[\w\-]{6,}"
    r"|\bAIza[\w\-]{8,}"
    r"|\bBearer\s+\S+|\bBasic\s+[\w+/=]{16,}"
    r"|(?<![\w\-])(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{40,}(?![\w\-])",
    re.IGNORECASE | re.ASCII,
)
"""Known beginnings of keys, and what is too long and too mixed for a word, a name or an id."""

UNEXPLAINED = "The provider refused the request, and did not say why."

KEY_SIGNS = "_-.*+/=\\%"
"""In keys, beside letters and digits, however they are written."""

CODED = re.compile(
    r"(?:\\U0000|\\u|%u|U\+)00([0-9a-f]{2})|\\[ux]\{0*([0-9a-f]{2})\}|[%=]([0-9a-f]{2})"
    r"|\\(?:x|0{0,4}(?=[0-9a-f]{2}\s))([0-9a-f]{2})|\\([0-7]{3})",
    re.IGNORECASE,
)
"""An ASCII character as JSON, Python, C, CSS, a mail or a URL may write it."""

SET_APART = re.compile(
    r"<[^<>]{0,1000}>|\x1b(?:\[[0-9;]*[a-z]|\][^\x07]{0,100}\x07)|\\[bnrt]"
    r"|(?<![0-9a-z])0x(?=[0-9a-f]{2}(?![0-9a-z]))",
    re.IGNORECASE,
)
"""What letters are set in, and no part of a word: markup, colours, ends of lines in JSON, and what
stands before the bytes of a dump."""

HTML_NUMBER = re.compile(r"&#0*([0-9]+)")
HTML_DIGITS = 8
"""No character has a number as long; of thousands of digits Python's `int` makes an error."""

LAYERS = 5
"""How often one code may stand in another: `%252F`."""

PIECE, PIECE_OF_LETTERS = 8, 12
"""So many letters and digits of a key, or letters alone, stand in a row nowhere else."""

SHORTEST_KEY = 8
LONGEST_WORD = 15
"""Letters and digits of a key. What has fewer, or has no digit and no more, is a word, as where no
key is needed, and only looked for as one: else it would make holes in what others say."""

LONGEST_WORDS = 4_000
"""Characters of a message that is passed on. OpenAI's longest known have some hundreds."""

KEPT = 200
"""Characters of what the provider said that the log keeps; the rest is known by its digest."""


class Unshown(str):
    """Words that may quote a prompt; tools that report errors show what `repr` says."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def quoted(said: str, key: str) -> str:
    """Return the beginning of what the provider said, on one line and without keys."""
    words = " ".join((_masked(said, key) or "").split())
    words = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words)
    if len(words) <= KEPT and len(said) <= LONGEST_WORDS:
        return Unshown(words)
    digest = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
    return Unshown(f"{words[:KEPT]}... sha256:{digest}")


def id_of_call(name: str | None, key: str) -> str | None:
    """Return the provider's own id of a call, unless it holds a key."""
    return name if name is not None and _masked(name, key) == name else None


def passed_on(status: int, body: bytes, key: str) -> bytes | None:
    """Return the provider's error as it may be shown; None if it is not the caller's mistake."""
    if status not in PASSED_ON:
        return None
    said = words_of(body)
    words = {name: _masked(said.get(name), key) for name in ("message", "type", "param", "code")}
    words["message"] = words["message"] or UNEXPLAINED
    words["type"] = words["type"] or "invalid_request_error"
    return json.dumps({"error": words}).encode()


def words_of(body: bytes) -> dict[str, Any]:
    """Return what an error says, in OpenAI's form or in one of those that servers use instead."""
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        return {}
    if isinstance(answer, list) and answer:  # Gemini
        answer = answer[0]
    said = answer.get("error", answer) if isinstance(answer, dict) else {}
    if not isinstance(said, dict):
        return {"message": said}  # Ollama, TGI
    if isinstance(said.get("message"), dict):  # Mistral
        said = {**said, "message": None, **said["message"]}
    detail = said.get("detail")  # FastAPI
    if isinstance(detail, list):
        detail = "; ".join(_problem(each) for each in detail if isinstance(each, dict))
    return said if said.get("message") else {**said, "message": detail}


def _problem(detail: dict[str, Any]) -> str:
    place = detail.get("loc")
    where = ".".join(str(each) for each in place) if isinstance(place, list) else ""
    return f"{where}: {detail.get('msg')}"


def _masked(word: object, key: str) -> str | None:
    """Return a word of the provider's without anything that is, or looks like, a key."""
    if not isinstance(word, str | int) or isinstance(word, bool):
        return None
    said = str(word)
    if _hides_key(said[: 2 * LONGEST_WORDS], key):
        return "***"
    if len(said) > LONGEST_WORDS:  # not in the middle of what may be a key
        end = LONGEST_WORDS
        while end and (said[end - 1].isalnum() or said[end - 1] in KEY_SIGNS):
            end -= 1
        said = said[:end]
    if key:
        said = _spelled(key).sub("***", said)
    return KEY_LIKE.sub("***", said)


def _hides_key(said: str, key: str) -> bool:
    """Return whether there is a key that is written in codes, or with something in between.

    That is what a text in UTF-16 looks like, too.
    """
    others = _spelled(key).sub(" ", said) if key else said  # what is seen, is not hidden
    if key and not _is_word(key) and _letters(key) in _letters(_decoded(others)):
        return True
    shown = KEY_LIKE.sub(" ", others)
    hidden = _decoded(shown)
    seen = _rows(hidden) | _rows(shown)  # what looks like markup may be a dump
    return KEY_LIKE.search(hidden) is not None or not _pieces(key).isdisjoint(seen)


def _decoded(text: str) -> str:
    for _ in range(LAYERS):
        text = HTML_NUMBER.sub(lambda number: f"&#{number[1][:HTML_DIGITS]}", text)
        text = SET_APART.sub("", CODED.sub(_character, html.unescape(text)))
    return unicodedata.normalize("NFKC", text.replace("\0", ""))


def _character(code: re.Match[str]) -> str:
    *hexadecimal, octal = code.groups()
    return chr(int(octal, 8) if octal else int("".join(filter(None, hexadecimal)), 16))


def _letters(text: str) -> str:
    return "".join(each for each in text if each.isascii() and each.isalnum()).lower()


def _rows(text: str) -> set[str]:
    """Return all letters and digits of a text that stand in a row, as many as a piece has."""
    letters = _letters(text)
    return {
        letters[start : start + size]
        for size in (PIECE, PIECE_OF_LETTERS)
        for start in range(len(letters) - size + 1)
    }


@lru_cache(maxsize=8)
def _pieces(key: str) -> frozenset[str]:
    """Return what gives a key away: a part of it, also in base64, or in a dump of its bytes."""
    if _is_word(key):
        return frozenset()
    data = key.encode("utf-8", "replace")
    coded = [b64encode(bytes(before) + data)[4:-4].decode() for before in range(3)]
    rows = {row for each in (key, *coded) for row in _rows(each)}
    dumped = {row for each in (data.hex(), str(list(data))) for row in _rows(each)}
    return frozenset(
        {row for row in rows if len(row) > PIECE or not row.isalpha()}
        | {row for row in dumped if len(row) > PIECE}
    )


def _is_word(key: str) -> bool:
    letters = _letters(key)
    return len(letters) < SHORTEST_KEY or (letters.isalpha() and len(letters) <= LONGEST_WORD)


@lru_cache(maxsize=8)
def _spelled(key: str) -> re.Pattern[str]:
    """Return what finds a key, also where JSON or a URL writes its signs in another way."""

    def ways(sign: str) -> str:
        code = f"{ord(sign):02x}"
        return rf"(?:\\?{re.escape(sign)}|\\u00{code}|%{code})"

    spelled = "".join(each if each.isalnum() else ways(each) for each in key)
    if _is_word(key):
        return re.compile(rf"(?<!\w){spelled}(?!\w)")
    return re.compile(spelled, re.IGNORECASE)
