"""What a provider can do wrong before its answer begins, the same for both ways of asking."""

from collections.abc import Iterator

from integration.faults import QUOTED, SOON, page, refusal
from integration.upstream import Answer, Then
from integration.wire import http, json_http

from .modes import ELSEWHERE, Ending, Mode, Place, both, endless, failed, once, silent

UNREACHABLE = failed("upstream_unreachable", calls=2)
HUNG_UP = failed("upstream_unreachable")
TIMEOUT = failed("upstream_timeout")
INVALID = failed("upstream_invalid_response")
INVALID_200 = failed("upstream_invalid_response", 200)
DRIP_HEAD = Answer(b"HTTP/1.1 200 OK\r\n", drip=b"X: y\r\n")

CONNECTIONS = (
    both("has closed its port", b"", UNREACHABLE, place=Place.CLOSED_PORT),
    both(
        "lets nobody in",
        b"",
        failed("upstream_unreachable"),  # the time is over: no second attempt
        place=Place.FULL_PORT,
        timeout_seconds=SOON,
        within=SOON + 1,
    ),
    both("speaks no TLS", b"", UNREACHABLE, place=Place.NO_TLS),
    both("has no address", b"", UNREACHABLE, place=Place.NO_NAME),
    both("has no address, and that takes long", b"", UNREACHABLE, place=Place.SLOW_NO_NAME),
    both("closes before it answers", Answer(then=Then.CLOSE), HUNG_UP),
    both("resets before it answers", Answer(then=Then.RESET), HUNG_UP),
    both("closes within the status line", Answer(b"HTTP/1.1 20", then=Then.CLOSE), HUNG_UP),
    both("resets within the status line", Answer(b"HTTP/1.1 20", then=Then.RESET), HUNG_UP),
    both("closes within the head", Answer(b"HTTP/1.1 200 OK\r\nX", then=Then.CLOSE), HUNG_UP),
    both("resets within the head", Answer(b"HTTP/1.1 200 OK\r\nX", then=Then.RESET), HUNG_UP),
    both("closes after 100", Answer(b"HTTP/1.1 100 Continue\r\n\r\n", then=Then.CLOSE), HUNG_UP),
    *(
        silent(name, Answer(data, then=Then.HANG), Answer(data, then=Then.HANG), TIMEOUT)
        for name, data in (
            ("never answers", b""),
            ("falls silent within the head", b"HTTP/1.1 200 OK\r\nX-"),
            ("says 100 and no more", b"HTTP/1.1 100 Continue\r\n\r\n"),
        )
    ),
    *(
        endless(name, answer, answer, TIMEOUT)
        for name, answer in (
            ("drips an endless head", DRIP_HEAD),
            ("says 102 again and again", Answer(drip=b"HTTP/1.1 102 Processing\r\n\r\n")),
        )
    ),
)

HEADS = (
    both(
        "speaks no HTTP", Answer(b"\x15\x03\x01\x02\x28" + QUOTED.encode() + b"\r\n\r\n"), INVALID
    ),
    both("speaks HTTP/9", Answer(b"HTTP/9.9 200 OK\r\n\r\n", then=Then.CLOSE), INVALID_200),
    both("gives no number as status", Answer(b"HTTP/1.1 abc OK\r\n\r\n"), INVALID),
    both("switches protocols", Answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), INVALID),
    both("sends a header of 200 kB", http("200 OK", b"{}", f"X: {'x' * 200_000}"), INVALID),
    both("sends 20,000 headers", http("200 OK", b"{}", *["X: yyyyyyyy"] * 20_000), INVALID),
    both("names two lengths", http("200 OK", b"{}", "Content-Length: 1"), INVALID),
    both("names a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", INVALID),
    both("puts a NUL into a header", http("200 OK", b"{}", "X: a\0b"), INVALID),
    both(
        "sends nothing, with 204",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        failed("upstream_invalid_response", 204),
    ),
    both("compresses", http("200 OK", b"", "Content-Encoding: gzip"), INVALID),
)

AGAIN = (408, 409, 500, 502, 503, 504, 529)
STATUSES = {
    "upstream_rejected": (301, 302, 303, 307, 308, 400, 405, 410, 413, 415, 418, 422, 451),
    "upstream_auth_failed": (401, 403),
    "upstream_model_unavailable": (404,),
    "upstream_error": (408, 409, 500, 501, 502, 503, 504, 520, 529),
    "upstream_rate_limited": (429,),
    "upstream_quota_exhausted": (402,),
}

CODES = (
    (400, "content_filter", "content_filter"),
    (400, "content_policy_violation", "content_filter"),
    (400, "context_length_exceeded", "context_length_exceeded"),
    (400, "invalid_api_key", "upstream_rejected"),
    (401, "invalid_api_key", "upstream_auth_failed"),
    (403, "unsupported_country", "upstream_auth_failed"),
    (404, "model_not_found", "upstream_model_unavailable"),
    (429, "insufficient_quota", "upstream_quota_exhausted"),
    (429, 429, "upstream_rate_limited"),
)

WAITS = {
    "0": 2,
    "3": 2,
    "5": 2,
    "-3": 2,
    "Wed, 21 Oct 2015 07:28:00 GMT": 2,
    "5.5": 1,
    "20": 1,
    "999": 1,
    "Fri, 31 Dec 9999 23:59:59 GMT": 1,
    "": 1,
    "soon": 1,
    "nan": 1,
    "inf": 1,
}
"""How often the provider is asked if it says 429 and to wait so long."""


def _of_status(status: int, code: str, calls: int | None = None) -> Ending:
    return failed(code, status, calls=calls or (2 if status in AGAIN else 1))


def _refusals() -> Iterator[Mode]:
    location = f"Location: http://{ELSEWHERE.decode()}/v1/chat/completions"
    for code, statuses in STATUSES.items():
        for status in statuses:
            ending = _of_status(status, code)
            yield both(f"says {status}", refusal(f"{status} No", location), ending)
            yield both(f"says {status} on a page", page(f"{status} No", location), ending)


def _worded() -> Iterator[Mode]:
    for status, word, code in CODES:
        answer = refusal(f"{status} No", code=word)
        yield both(f"says {status}, {word}", answer, _of_status(status, code))
    for wait, calls in WAITS.items():
        answer = refusal("429 No", f"Retry-After: {wait}")
        ending = _of_status(429, "upstream_rate_limited", calls)
        yield both(f"says 429, wait {wait!r}", answer, ending, timeout_seconds=60)
    for wait, calls in (("1", 2), ("999", 1)):
        answer = page("503 No", f"Retry-After: {wait}")
        yield both(f"says 503, wait {wait!r}", answer, _of_status(503, "upstream_error", calls))
    for should in ("true", "false"):
        for status in (400, 500):
            code = "upstream_rejected" if status < 500 else "upstream_error"
            answer = refusal(f"{status} No", f"x-should-retry: {should}")
            yield both(f"says {status}, retry: {should}", answer, _of_status(status, code))
    for body in (QUOTED, [QUOTED], None, {"error": QUOTED}, {"error": None}, {"error": [QUOTED]}):
        answer = json_http("401 No", body)
        yield both(f"says 401 with {body!r:.20}", answer, _of_status(401, "upstream_auth_failed"))


REFUSALS = (
    *_refusals(),
    *_worded(),
    both(
        "says 429, wait 1, without quota",
        refusal("429 No", "Retry-After: 1", code="insufficient_quota"),
        _of_status(429, "upstream_quota_exhausted"),
    ),
    both(
        "closes within a refusal",
        Answer(b"HTTP/1.1 500 No\r\nContent-Length: 99\r\n\r\n{", then=Then.CLOSE),
        _of_status(500, "upstream_error"),
    ),
    both(
        "hangs within a refusal",
        Answer(b"HTTP/1.1 401 No\r\nContent-Length: 99\r\n\r\n{", then=Then.HANG),
        _of_status(401, "upstream_auth_failed"),
        within=SOON + 1.5,  # less than a silence may last
    ),
    both(
        "sends a refusal in chunks that are none",
        Answer(b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        _of_status(429, "upstream_rate_limited"),
    ),
    both(
        "sends 9 MB with a refusal",
        http("500 No", b" " * 9_000_000),
        _of_status(500, "upstream_error"),
    ),
    both(
        "hangs within a redirect",
        Answer(b"HTTP/1.1 302 No\r\nLocation: /\r\nContent-Length: 99\r\n\r\n<", then=Then.HANG),
        _of_status(302, "upstream_rejected"),
        within=SOON + 1.5,  # less than a silence may last
    ),
    both(
        "compresses a redirect",
        http("307 No", b"no gzip", "Location: /", "Content-Encoding: gzip"),
        _of_status(307, "upstream_rejected"),
    ),
    *(
        both(
            f"says 401 in {charset}",
            b"HTTP/1.1 401 No\r\nContent-Length: 3\r\nContent-Type: application/json; charset="
            + f"{charset}\r\n\r\n".encode()
            + b'{"\xff',
            _of_status(401, "upstream_auth_failed"),
        )
        for charset in ("utf-16", "idna", "hex", "undefined", "rot13", "none")
    ),
    both(
        "compresses a refusal",
        http("500 No", b"no gzip", "Content-Encoding: gzip"),
        _of_status(500, "upstream_error"),
    ),
)

ONCE = (
    *(once(f"says {status} once", Answer(refusal(f"{status} No"))) for status in AGAIN),
    once("says 502 on a page once", Answer(page("502 No"))),
    once(
        "says 500 once, and closes", Answer(refusal("500 No", "Connection: close"), then=Then.CLOSE)
    ),
    once("says 429, wait 1, once", Answer(refusal("429 No", "Retry-After: 1"))),
)

BEFORE = (*CONNECTIONS, *HEADS, *REFUSALS, *ONCE)
