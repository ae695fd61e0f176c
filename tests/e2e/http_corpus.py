"""Requests that are almost HTTP, byte by byte, and what each must be answered with."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

PROMPT = b'{"user_id": "ada", "prompt": "asked"}'
HIDDEN = b'{"user_id": "eve", "prompt": "smuggled"}'
HOST = b"Host: chatport\r\n"
JSON = b"Content-Type: application/json\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ROUTE = b"POST /openai-completion HTTP/1.1\r\n"
GET = b"GET /healthz HTTP/1.1\r\n"

BAD = (400, "bad_request")
BAD_JSON = (400, "invalid_json")
TOO_LARGE = (413, "body_too_large")
NO_ROUTE = (404, "not_found")
WRONG_METHOD = (405, "method_not_allowed")
WRONG_TYPE = (415, "unsupported_media_type")
WELL = (200, None)
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One connection.

    Attributes:
        sent: All that the client sends.
        answers: Status and code of each answer; none if it is just closed.
        asked: How many prompts reach the provider.
        leaves: Whether the client says with a FIN that nothing more will come.
    """

    name: str
    sent: bytes
    answers: tuple[tuple[int, str | None], ...]
    asked: int = 0
    leaves: bool = False


def length(value: bytes | int) -> bytes:
    """Return a Content-Length header."""
    return b"Content-Length: %b\r\n" % (value if isinstance(value, bytes) else b"%d" % value)


def post(headers: bytes, body: bytes = b"") -> bytes:
    """Return a request for a completion."""
    return ROUTE + HOST + JSON + headers + b"\r\n" + body


def chunk(data: bytes) -> bytes:
    """Return one chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


SECRET = post(length(len(HIDDEN)) + CLOSE, HIDDEN)
"""A whole request, to stand where another's body or end may be."""

LAST = b"0\r\n\r\n"
WHOLE = post(length(len(PROMPT)) + CLOSE, PROMPT)


def cases() -> Iterator[Case]:
    """Return all of them."""
    yield from framing()
    yield from lengths()
    yield from codings()
    yield from chunks()
    yield from request_lines()
    yield from targets()
    yield from headers()
    yield from torn()
    yield from bodies()
    yield from several()


def refused(name: str, sent: bytes, status: int = 400) -> Case:
    """Return a request that the parser refuses, before another that nobody may see."""
    return Case(name=name, sent=sent + SECRET, answers=((status, "bad_request"),))


def framing() -> Iterator[Case]:
    both = length(len(LAST)) + CHUNKED
    yield refused("CL.TE", post(both, LAST))
    yield refused("TE.CL", post(CHUNKED + length(4), b"5c\r\n"))
    yield refused("CL.TE of 0", post(length(0) + CHUNKED, LAST))
    yield refused("a bare LF after the request line", b"GET /healthz HTTP/1.1\nHost: a\r\n\r\n")
    yield refused("a bare LF after a header", GET + b"Host: a\nX-B: c\r\n\r\n")
    yield refused("bare LFs only", GET.replace(b"\r", b"") + b"Host: a\n\n" + b"\r\n\r\n")
    yield refused("a bare CR in a header", GET + b"Host: a\rX-B: c\r\n\r\n")
    yield refused("a folded header", GET + b"Host: a\r\nX-B: c\r\n d\r\n\r\n")
    yield refused("a folded length", post(b"Content-Length:\r\n 5\r\n", b"12345"))
    yield refused("a folded coding", post(b"Transfer-Encoding:\r\n\tchunked\r\n", LAST))
    yield refused("a fold before all headers", GET + b" X: y\r\n" + HOST + b"\r\n")
    yield refused("a space before a colon", post(b"Content-Length : 5\r\n", b"12345"))
    yield refused("a tab before a colon", post(b"Transfer-Encoding\t: chunked\r\n", LAST))
    yield refused("two hosts", GET + HOST + b"Host: b\r\n\r\n")
    yield refused("two types", post(JSON + length(len(PROMPT)), PROMPT))
    yield Case(
        name="a length with an underscore is no length",
        sent=post(b"Content_Length: 5\r\n" + CLOSE),
        answers=(BAD_JSON,),
    )


def lengths() -> Iterator[Case]:
    yield refused("two lengths that differ", post(length(5) + length(6), b"123456"))
    yield refused("two lengths that agree", post(length(5) + length(5), b"12345"))
    for value in [
        b"+5",
        b"-1",
        b"-0",
        b"0x5",
        b"5, 5",
        b"5,6",
        b"5;",
        b"5 5",
        b"5.0",
        b"1e1",
        b"0b1",
        b"",
        b"five",
        b"\xb2",
        b"\xbc",
        b"\xd9\xa5",
        b"1_0",
        b'"5"',
        b"5\x00",
        b"5\x0b",
        b"NaN",
    ]:
        yield refused(f"a length of {value!r}", post(length(value), b"12345"))
    padded = b"Content-Length: \t %d \t \r\n" % len(PROMPT)
    yield Case(name="padding", sent=post(padded + CLOSE, PROMPT), answers=(WELL,), asked=1)
    zeros = length(b"000%d" % len(PROMPT))
    yield Case(name="leading zeros", sent=post(zeros + CLOSE, PROMPT), answers=(WELL,), asked=1)
    for size in (10**10, 2**63, 2**64 + 5, 10**30):
        yield Case(
            name=f"a length of {size}",
            sent=post(length(size) + CLOSE, PROMPT),
            answers=(TOO_LARGE,),
        )
    yield refused("a length of 5000 digits", post(length(b"9" * 5000)))


def codings() -> Iterator[Case]:
    for value in [
        b"identity",
        b"gzip",
        b"chunked, identity",
        b"chunked, gzip",
        b"chunked, chunked",
        b"gzip, deflate",
        b"identity, identity",
        b"deflate",
    ]:
        yield refused(f"a coding of {value!r}", post(b"Transfer-Encoding: %b\r\n" % value, LAST))
    for value in [
        b"xchunked",
        b"chunked;q=1",
        b"x, chunked",
        b"",
        b"chunked,",
        b", chunked",
        b'"chunked"',
        b"chun ked",
        b"gzip, chunked",
        b"identity, chunked",
        b"deflate, gzip, chunked",
        b"chunked chunked",
        b"br",
        b"cow",
    ]:
        yield refused(
            f"a coding of {value!r}", post(b"Transfer-Encoding: %b\r\n" % value, LAST), 501
        )
    for value in (b"\x0bchunked", b"chunked\x00", b"chunked\x0c"):
        yield refused(f"a coding of {value!r}", post(b"Transfer-Encoding: %b\r\n" % value, LAST))
    yield refused("TE.TE", post(CHUNKED + CHUNKED, LAST))
    yield refused("TE.TE, the second identity", post(CHUNKED + b"Transfer-Encoding: identity\r\n"))
    yield refused("TE.TE, the second unknown", post(CHUNKED + b"Transfer-Encoding: x\r\n"), 501)
    old = ROUTE.replace(b"1.1", b"1.0") + HOST + JSON + CHUNKED + b"\r\n"
    yield refused("chunks in HTTP/1.0", old + chunk(PROMPT) + LAST)
    mixed = post(b"tRANSFER-eNCODING: Chunked\r\n" + CLOSE, chunk(PROMPT) + LAST)
    yield Case(name="mixed case", sent=mixed, answers=(WELL,), asked=1)


def chunks() -> Iterator[Case]:
    def chunked(name: str, body: bytes) -> Case:
        return refused(name, post(CHUNKED, body))

    for size in [
        b"0x5",
        b"+5",
        b"-5",
        b"5 ",
        b" 5",
        b"\t5",
        b"5_0",
        b"",
        b"g",
        b"5\x00",
        b"\xd9\xa5",
        b"5;",
        b"5;=",
        b'5;a="',
        b"5;a=\r",
        b"5 a",
        b"5\n",
        b"5,5",
    ]:
        yield chunked(f"a chunk of size {size!r}", size + b"\r\n12345\r\n" + LAST)
    yield chunked("a chunk without its end", b"5\r\n12345" + LAST)
    yield chunked("a chunk that ends in LF", b"5\r\n12345\n" + LAST)
    yield chunked("a chunk that is longer than it says", b"5\r\n123456\r\n" + LAST)
    yield chunked("a size that ends in LF", b"5\n12345\r\n" + LAST)
    yield chunked("a size without an end", b"5" * 20_000)
    yield chunked("a trailer with a length", LAST[:-2] + length(5) + b"\r\n")
    yield chunked("a trailer with a coding", LAST[:-2] + CHUNKED + b"\r\n")
    yield chunked("a trailer with a host", LAST[:-2] + HOST + b"\r\n")
    yield chunked("a trailer with a fold", LAST[:-2] + b"A: b\r\n c\r\n\r\n")
    yield chunked("a trailer that ends in LF", LAST[:-2] + b"A: b\n\n")
    yield chunked("a trailer without a colon", LAST[:-2] + b"trailer\r\n\r\n")
    huge = b"f" * 16 + b"\r\n" + b" " * MEBIBYTE
    yield Case(
        name="a huge chunk", sent=post(CHUNKED + CLOSE, huge), answers=(TOO_LARGE,), leaves=True
    )
    whole = {
        "an extension": b"%x;a=b\r\n%b\r\n" % (len(PROMPT), PROMPT) + LAST,
        "a quoted extension": b'%x;a="0\t;"\r\n%b\r\n' % (len(PROMPT), PROMPT) + LAST,
        "a trailer": chunk(PROMPT) + b"0\r\nX-Checksum: 5\r\n\r\n",
        "a chunk a byte": b"".join(chunk(bytes([byte])) for byte in PROMPT) + LAST,
        "zeros before a size": b"000%x\r\n%b\r\n000\r\n\r\n" % (len(PROMPT), PROMPT),
    }
    for name, body in whole.items():
        yield Case(name=name, sent=post(CHUNKED + CLOSE, body), answers=(WELL,), asked=1)
    yield Case(
        name="an unread body that is no chunks",
        sent=GET + HOST + CHUNKED + b"\r\n" + b"zz\r\n" + SECRET,
        answers=(WELL,),
    )


def request_lines() -> Iterator[Case]:
    for line in [
        b"GET",
        b"GET /healthz",
        b"GET  /healthz HTTP/1.1",
        b"GET /healthz  HTTP/1.1",
        b" ",
        b"GET /healthz HTTP/1.1 ",
        b" GET /healthz HTTP/1.1",
        b"GET\t/healthz\tHTTP/1.1",
        b"GET /healthz HTTP/1.1 x",
        b"GET /a b HTTP/1.1",
        b"get /healthz HTTP/1.1",
        b"G(T /healthz HTTP/1.1",
        b"GE\x00T /healthz HTTP/1.1",
        b"GE:T /healthz HTTP/1.1",
        b"\xff\xfe /healthz HTTP/1.1",
        b"GET /healthz\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /healthz\x0b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET /\rx HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET healthz HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET a:80 HTTP/1.1",
        b"GET http://[ HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01",
        b"{}",
        b"SSH-2.0-OpenSSH_9",
        b"PRI * HTTP/2.0",
        b"EHLO you",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2",
    ]:
        yield refused(f"the line {line!r}", line + b"\r\n" + HOST + b"\r\n")
    for version in [
        b"HTTP/0.9",
        b"HTTP/1.2.3",
        b"HTTP/1",
        b"HTTP/1.",
        b"HTTP/.1",
        b"HTTP/01.1",
        b"HTTP/1.10",
        b"HTTP/2.0",
        b"HTTP/3",
        b"http/1.1",
        b"HTTP /1.1",
        b"HTTPS/1.1",
        b"XTTP/1.1",
        b"HTTP/-1",
        b"HTTP/1,1",
        b"HTTP/\xb9.1",
        b"HTTP/9.9",
    ]:
        yield refused(f"the version {version!r}", b"GET / " + version + b"\r\n" + HOST + b"\r\n")
    yield refused("HTTP/0.9", b"GET /healthz\r\n\r\n")
    yield refused("an empty line", b"\r\n\r\n\r\n")
    yield refused("a long line", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414)
    yield refused("a line without an end", b"G" * 70_000, 414)
    old = GET.replace(b"1.1", b"1.0")
    yield Case(name="HTTP/1.0", sent=old + b"\r\n" + SECRET, answers=(WELL,))


def targets() -> Iterator[Case]:
    def found(
        method: bytes, target: bytes, answer: tuple[int, str | None], more: bytes = b""
    ) -> Case:
        line = b"%b %b HTTP/1.1\r\n" % (method, target)
        name = f"{method.decode()} {target.decode()} {more.decode()}".strip()
        return Case(
            name=name, sent=line + HOST + CLOSE + more + b"\r\n" + SECRET, answers=(answer,)
        )

    for target in [
        b"/../etc/passwd",
        b"/..%2f..%2fetc%2fpasswd",
        b"/%2e%2e/%2e%2e/etc",
        b"/\\",
        b"/healthz/",
        b"/healthz%00",
        b"/healthz%0d%0aX:y",
        b"/healthz;a",
        b"/./healthz",
        b"/%",
        b"/static/../healthz",
        b"/docs/../../settings.py",
        b"/%ff",
        b"/%c0%af",
        b"/HEALTHZ",
        b"http://chatport",
        b"//healthz",
        b"//evil/healthz",
    ]:
        yield found(b"GET", target, NO_ROUTE)
    for target in (
        b"/healthz",
        b"/healthz?a=b",
        b"http://chatport/healthz",
        b"/%68ealthz",
    ):
        yield found(b"GET", target, WELL)
    yield found(b"HEAD", b"/healthz", WELL)
    for method in (b"OPTIONS", b"TRACE", b"DELETE", b"PUT", b"PATCH", b"BREW"):
        yield found(method, b"/healthz", WRONG_METHOD)
    yield found(b"GET", b"/openai-completion", WRONG_METHOD)
    yield found(b"OPTIONS", b"*", NO_ROUTE)
    yield found(b"CONNECT", b"chatport:443", NO_ROUTE)
    yield found(b"GET", b"/healthz", WELL, b"Upgrade: websocket\r\n")
    settings = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    yield found(b"GET", b"/healthz", WELL, settings)


def headers() -> Iterator[Case]:
    for line in [
        b"X",
        b": y",
        b"X Y: z",
        b"X\x00: y",
        b"X: y\x00",
        b"X: \x01",
        b"X: \x7f",
        b"X@: y",
        b"X: y\rZ: z",
        b"\xc3\xa9: y",
        b"(X): y",
        b"=: y",
        b"X-Request-Id: a\rX: y",
        b"X-Request-Id: a\nSet-Cookie: b",
    ]:
        yield refused(f"the header {line!r}", GET + HOST + line + b"\r\n\r\n")
    long = b"X: " + b"a" * 8200 + b"\r\n"
    yield refused("a long header", GET + HOST + long + b"\r\n", 431)
    yield refused("many headers", GET + HOST + b"X: y\r\n" * 200 + b"\r\n", 431)
    yield refused("headers without an end", GET + HOST + b"X: y\r\n" * 200_000, 431)
    yield refused("another expectation", post(b"Expect: 200-ok\r\n" + length(0)), 417)
    for value in (b"a%0d%0aX: y", b"\xe2\x98\x83", b"a" * 5000, b"", b"../../x", b"';--"):
        sent = GET + HOST + CLOSE + b"X-Request-Id: %b\r\n\r\n" % value
        yield Case(name=f"the request id {value[:9]!r}", sent=sent, answers=(WELL,))
    yield Case(name="no host", sent=GET + CLOSE + b"\r\n", answers=(BAD,))
    old = GET.replace(b"1.1", b"1.0")
    yield Case(name="no host in HTTP/1.0", sent=old + b"\r\n", answers=(WELL,))
    for host in (b"a b", b"[::1", b"x?y", b"a/b", b"@", b"a:b", b"\xe9", b'"'):
        sent = GET + b"Host: %b\r\n" % host + CLOSE + b"\r\n"
        yield Case(name=f"the host {host!r}", sent=sent, answers=(BAD,))
    for host in (b"", b"[::1]:80", b"a.example:8000", b"127.0.0.1", b"a_b", b"%c3%a9"):
        sent = GET + b"Host: %b\r\n" % host + CLOSE + b"\r\n"
        yield Case(name=f"the host {host!r}", sent=sent, answers=(WELL,))
    for options in (b"x, close", b"CLOSE", b"close, x", b"x\r\nConnection: close"):
        sent = GET + HOST + b"Connection: %b\r\n\r\n" % options + SECRET
        yield Case(name=f"the options {options!r}", sent=sent, answers=(WELL,))
    for forged in (b"SCRIPT_NAME: /x", b"PATH_INFO: /healthz", b"X-Forwarded-Prefix: /x"):
        sent = b"GET /x/healthz HTTP/1.1\r\n" + HOST + forged + b"\r\n" + CLOSE + b"\r\n"
        yield Case(name=f"the header {forged!r}", sent=sent, answers=(NO_ROUTE,))


def torn() -> Iterator[Case]:
    end = WHOLE.index(b"\r\n\r\n") + 4
    for at in sorted({1, 4, 10, 30, *range(40, end, 13), end - 3, end - 2, end - 1}):
        yield Case(name=f"torn at {at}, in the head", sent=WHOLE[:at], answers=(), leaves=True)
    for at in (end, end + 1, len(WHOLE) - 1):
        yield Case(name=f"torn at {at}, in the body", sent=WHOLE[:at], answers=(BAD,), leaves=True)
    body = chunk(PROMPT) + LAST
    for at in (0, 1, 3, 4, 10, len(body) - 7, len(body) - 4, len(body) - 2):
        sent = post(CHUNKED + CLOSE, body[:at])
        yield Case(name=f"torn at {at}, in chunks", sent=sent, answers=(BAD,), leaves=True)
    yield Case(name="nothing", sent=b"", answers=(), leaves=True)


def bodies() -> Iterator[Case]:
    def body(name: str, data: bytes, answer: tuple[int, str | None], more: bytes = b"") -> Case:
        return Case(name=name, sent=post(length(len(data)) + CLOSE + more, data), answers=(answer,))

    def of_type(name: str, kind: bytes) -> Case:
        head = ROUTE + HOST + kind + length(len(PROMPT)) + CLOSE + b"\r\n"
        return Case(name=name, sent=head + PROMPT, answers=(WRONG_TYPE,))

    spaces = b" " * MEBIBYTE
    yield body("a body over the limit", spaces, TOO_LARGE)
    yield body("a body far over the limit", spaces * 3, TOO_LARGE)
    yield body("100,000 brackets", b"[" * 100_000, BAD_JSON)
    yield body("100,000 braces", b'{"a":' * 100_000, BAD_JSON)
    yield body("no JSON", b"prompt=asked", BAD_JSON)
    yield body("an empty body", b"", BAD_JSON)
    yield body("gzip", PROMPT, WRONG_TYPE, b"Content-Encoding: gzip\r\n")
    yield of_type("no type", b"")
    yield of_type("text", b"Content-Type: text/plain\r\n")
    yield of_type("a form", b"Content-Type: application/x-www-form-urlencoded\r\n")
    yield of_type("another JSON", b"Content-Type: application/jsonp\r\n")
    many = chunk(spaces[:50_000]) * 25 + LAST
    yield Case(name="chunks over the limit", sent=post(CHUNKED + CLOSE, many), answers=(TOO_LARGE,))
    short = post(length(len(PROMPT) - 1) + CLOSE, PROMPT)
    yield Case(name="a length that is short", sent=short, answers=(BAD_JSON,))
    long = post(length(len(PROMPT) + 1) + CLOSE, PROMPT)
    yield Case(name="a length that is long", sent=long, answers=(BAD,), leaves=True)
    yield Case(
        name="a whole request as the end of a body",
        sent=post(length(len(PROMPT)) + CLOSE, PROMPT + SECRET),
        answers=(WELL,),
        asked=1,
    )
    yield Case(
        name="a whole request as a body",
        sent=post(length(len(SECRET)) + CLOSE, SECRET),
        answers=(BAD_JSON,),
    )
    expected = post(length(len(PROMPT)) + CLOSE + b"Expect: 100-continue\r\n", PROMPT)
    answers = ((100, None), WELL)
    yield Case(name="an expectation", sent=expected, answers=answers, asked=1)


def several() -> Iterator[Case]:
    again = post(length(len(PROMPT)), PROMPT)
    yield Case(name="two at once", sent=again + WHOLE, answers=(WELL, WELL), asked=2)
    line = GET + HOST + b"\r\n"
    yield Case(name="20 at once", sent=line * 20 + WHOLE, answers=(WELL,) * 21, asked=1)
    yield Case(
        name="a good one before a bad one",
        sent=again + b"GET / HTTP/9.9\r\n\r\n" + SECRET,
        answers=(WELL, BAD),
        asked=1,
    )
    body = json.dumps({"unread": True}).encode()
    unread = GET + HOST + length(len(body)) + b"\r\n" + body
    yield Case(
        name="an unread body before another", sent=unread + WHOLE, answers=(WELL, WELL), asked=1
    )
    chunked = GET + HOST + CHUNKED + b"\r\n" + chunk(body) + LAST
    yield Case(name="unread chunks before another", sent=chunked + SECRET, answers=(WELL,))
    large = GET + HOST + length(200_000) + b"\r\n" + b" " * 200_000
    yield Case(name="a large unread body before another", sent=large + SECRET, answers=(WELL,))
    post_chunks = post(CHUNKED, chunk(PROMPT) + LAST)
    yield Case(
        name="chunks before another", sent=post_chunks + WHOLE, answers=(WELL, WELL), asked=2
    )
