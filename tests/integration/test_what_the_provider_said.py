"""What the provider says about a failure: its beginning is in the log, and nowhere else."""

import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatport.adapters import MemoryStore, PeeweeStore
from chatport.adapters.upstream_words import quoted
from chatport.domain.ports import ConversationStore
from chatport.domain.retention import PurgeSpan

from .faults import KEY
from .relaying import ASKED, PATH, SEED, STREAMED, Wire, wire_to
from .upstream import Answer, Upstream
from .wire import chunks, event, http, json_http, said

PLAIN: dict[str, Any] = {"user_id": "ada", "prompt": "Hi"}
WAYS = pytest.mark.parametrize(
    ("path", "body"),
    [(SEED, PLAIN), (SEED, {**PLAIN, "stream": True}), (PATH, ASKED), (PATH, STREAMED)],
    ids=["seed", "seed stream", "v1", "v1 stream"],
)
WORDS = "The  moon\nis \x1b[31mclosed"
SEEN = "The moon is \N{REPLACEMENT CHARACTER}[31mclosed"
LONG = "<html>" + "moon " * 2_000


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConversationStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with closing(PeeweeStore(tmp_path / "log.db")) as store:
        yield store


@pytest.fixture
def wire(upstream: Upstream, store: ConversationStore) -> Iterator[Wire]:
    with wire_to(upstream, store=store) as wire:
        yield wire


def kept(wire: Wire, path: str, body: Any) -> str | None:
    """Return what the log keeps of the provider's words; the client must see none of them."""
    response = wire.ask(body, path)
    assert b"moon" not in response.data
    return wire.stored().upstream_said


@WAYS
@pytest.mark.parametrize("status", ["302 Found", "401 No", "409 Conflict", "500 Oops", "503 Busy"])
def test_of_a_refusal(status: str, path: str, body: Any, wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(http(status, WORDS.encode())))
    assert kept(wire, path, body) == SEEN


@WAYS
def test_of_nonsense_its_beginning_and_its_digest(
    path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(http("200 OK", LONG.encode())))
    digest = hashlib.sha256(LONG.encode()).hexdigest()
    assert kept(wire, path, body) == f"{LONG[:200]}... sha256:{digest}"


@pytest.mark.parametrize("payload", [b'{"error": "moon"}', b'{"moon', b'["moon"]', b"moon \xff"])
@pytest.mark.parametrize(
    ("path", "body"), [(SEED, {**PLAIN, "stream": True}), (PATH, STREAMED)], ids=[SEED, PATH]
)
def test_of_a_stream_the_event_that_ended_it(
    payload: bytes, path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(chunks(said("Hel") + b"data: " + payload + b"\n\n")))
    assert kept(wire, path, body) == payload.decode("utf-8", "replace")


@WAYS
def test_no_key(path: str, body: Any, wire: Wire, upstream: Upstream) -> None:
    text = f"Incorrect API key provided: {KEY}; sk-proj-moonmoonmoon. {'moon ' * 60}{KEY}"
    upstream.plays(Answer(json_http("401 No", {"error": {"message": text}})))
    words = kept(wire, path, body)
    assert words is not None
    assert words.startswith('{"error": {"message": "Incorrect API key provided: ***; ***')
    assert KEY not in words


@pytest.mark.parametrize(
    "echo",
    [
        "aB3\\/xY9+kL2\\/pQ7==",
        "aB3/xY9\\u002BkL2/pQ7\\u003D\\u003d",
        "aB3%2FxY9%2bkL2%2fpQ7%3D%3D",
        "Authorization: Basic dTphQjMveFk5K2tMMi9wUTc9PQ==",
    ],
    ids=["as PHP", "as .NET", "in a URL", "in Basic"],
)
def test_no_key_in_another_spelling(echo: str) -> None:
    words = quoted(f"Invalid key {echo}; " + "moon " * 2_000, "aB3/xY9+kL2/pQ7==")
    assert words.startswith(("Invalid key ***; moon", "Invalid key Authorization: ***; moon"))


@pytest.mark.parametrize(
    "echo",
    [
        f'{{"message": "{KEY}"}}'.encode("utf-16").decode("utf-8", "replace"),
        f'{{"message": "{KEY}"}}'.encode("utf-16-be").decode("utf-8", "replace"),
        "".join(f"\\u00{ord(each):02x}" for each in KEY),
        "".join(f"%{ord(each):02X}" for each in KEY),
        "".join(f"&#{ord(each)};" for each in KEY),
        "".join(f"&#x{ord(each):x};" for each in KEY),
        "".join(f"%25{ord(each):02X}" for each in KEY),
        "".join(f"\\{ord(each):03o}" for each in KEY),
        "".join(f"\\u{{{ord(each):x}}}" for each in KEY),
        "".join(chr(ord(each) + 0xFEE0) for each in KEY),
        KEY.replace("-", "&hyphen;").replace("_", "&lowbar;"),
        KEY[:5] + "\n" + KEY[5:12] + "\u200b" + KEY[12:],
        "".join(f"\\x{ord(each):02x}" for each in "gsk-another1234key"),
    ],
    ids=[
        *("UTF-16", "UTF-16 BE", "JSON", "URL", "HTML", "HTML hex", "URL twice", "C", "JavaScript"),
        *("full width", "HTML names", "broken", "another"),
    ],
)
def test_nothing_where_a_key_is_written_in_codes_or_in_pieces(echo: str) -> None:
    assert quoted(f"Invalid key {echo}; moon", KEY) == "***"


LIVE = "sk-proj-abcDEF123456ghiJKL789mnoPQR"


@pytest.mark.parametrize(
    "echo",
    [
        *(LIVE.replace("cD", f"c{between}D") for between in (" ", "\n", "\u200b", "\u00ad")),
        *(LIVE.replace("cD", f"c{code}") for code in ("%44", "\\u0044", "&#68;", "&#0068;")),
        LIVE.replace("cD", f"c&#{'0' * 5_000}68;"),
    ],
    ids=["blank", "line", "no width", "hyphen", "URL", "JSON", "HTML", "zeros", "many zeros"],
)
def test_nothing_of_a_key_whose_beginning_alone_is_seen(echo: str) -> None:
    words, *_digest = quoted(f"Invalid key {echo}; moon", LIVE).split("... ")
    assert words == "***"


MIXED = "qzXK93mvLp27RtWy5BnD"


@pytest.mark.parametrize("key", [LIVE, MIXED], ids=["known", "mixed"])
@pytest.mark.parametrize("between", ["\\n", "\\r\\n", "<wbr>", "<br/>", "\x1b[31m", "\n2: "])
def test_nothing_of_a_key_that_something_stands_in(key: str, between: str) -> None:
    assert quoted(f"Invalid key {key[:11]}{between}{key[11:]}; moon", key) == "***"


@pytest.mark.parametrize("key", [LIVE, MIXED], ids=["known", "mixed"])
@pytest.mark.parametrize(
    "code",
    [
        "%u00{:02X}",
        "\\U000000{:02x}",
        "\\x{{{:x}}}",
        "={:02X}",
        "\\{:x} ",
        "U+00{:x}",
        "%25252525{:x}",
    ],
    ids=["browsers", "Python", "Perl", "mail", "CSS", "Unicode", "five layers"],
)
def test_nothing_of_a_key_in_codes_that_few_know(key: str, code: str) -> None:
    coded = "".join(code.format(ord(each)) for each in key)
    assert quoted(f"Invalid key {coded}; moon", key) == "***"


@pytest.mark.parametrize("before", ["", "x", "xy", "Bearer "])
@pytest.mark.parametrize("key", [LIVE, MIXED], ids=["known", "mixed"])
def test_no_key_in_base64_wherever_it_begins(key: str, before: str) -> None:
    coded = b64encode(f"{before}{key}".encode()).decode()
    assert quoted(f"moon {coded[:-3]}", key) in ("***", "moon ***")


@pytest.mark.parametrize("key", [LIVE, MIXED], ids=["known", "mixed"])
@pytest.mark.parametrize(
    "dump",
    [
        lambda data: f"<Buffer 42 65 61 72 {data.hex(' ')} ... 9 more bytes>",
        lambda data: data.hex(":").upper(),
        lambda data: ", ".join(f"0x{byte:02x}" for byte in data),
        lambda data: f'{{"type":"Buffer","data":{list(data)}}}',
        lambda data: f"00000000  {data[:16].hex(' ')}\n00000010  {data[16:].hex(' ')}",
    ],
    ids=["Node", "colons", "C", "JSON", "lines"],
)
def test_nothing_where_a_key_stands_in_a_dump_of_bytes(
    key: str, dump: Callable[[bytes], str]
) -> None:
    assert quoted(f"Invalid header {dump(key.encode())}; moon", key) == "***"


@pytest.mark.parametrize("between", [f'<b title="{"x" * 120}">', "\x1b]0;title\x07", "\\b"])
def test_nothing_of_a_key_that_something_long_stands_in(between: str) -> None:
    pieces = between.join(MIXED[at : at + 4] for at in range(0, len(MIXED), 4))
    assert quoted(f"Invalid key {pieces}; moon", MIXED) == "***"


@pytest.mark.parametrize("key", [LIVE, MIXED], ids=["known", "mixed"])
@pytest.mark.parametrize("part", [slice(2, None), slice(None, -2), slice(5, 15)])
def test_no_part_of_a_key(key: str, part: slice) -> None:
    assert key[part] not in quoted(f"The key ends with {key[part]}", key)


def test_what_keys_have_in_common_with_words_stays() -> None:
    said = "The project of my company has no model gpt-4o"
    assert quoted(said, "sk-project-company-4o") == said


@WAYS
@pytest.mark.parametrize("number", ["9", "0"])
def test_a_number_that_is_too_long_for_a_character_is_a_word_like_others(
    number: str, path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    text = f"moon &#{number * 4_400};"
    upstream.plays(Answer(json_http("401 No", {"error": {"message": text}})))
    words = kept(wire, path, body)
    assert words is not None
    assert words.startswith('{"error": {"message": "moon &#')


def test_a_key_that_is_a_word_makes_no_holes_in_others() -> None:
    said = "messages must not be empty_array, nor empty, nor have max_tokens of to kens"
    for key in ("EMPTY", "x", "to-kens", "must-not"):
        assert quoted(said, key) == said


@pytest.mark.parametrize("key", [KEY, "not-needed", "lm-studio"])
@pytest.mark.parametrize(
    "said",
    [
        "Parameter 'tools' is not needed for this model; load one in LM Studio first",
        "Known models:\nllama3\nmistral7b\nqwen2\nglm4\nphi4\ngemma3\ndeepseek3",
        "Known models:\tllama3\tmistral7b\tqwen2\tglm4\tphi4\tgemma3\tdeepseek3",
        "可用模型、qwen2、qwen25、glm4、deepseek3、llama3、mistral7、gemma3",
    ],
    ids=["words", "lines", "tabs", "Chinese"],
)
def test_no_list_of_names_is_taken_for_a_key(said: str, key: str) -> None:
    assert quoted(said, key) == " ".join(said.split())


def test_a_key_of_letters_is_masked_as_a_word() -> None:
    assert quoted("Invalid key not-needed; moon", "not-needed") == "Invalid key ***; moon"


def test_a_key_in_pieces_is_not_cut_in_two() -> None:
    said = "m " * 1_990 + " ".join(KEY)
    assert quoted(said, KEY).startswith("***... sha256:")


def test_from_the_beginning_of_a_key_its_digit_is_looked_for_a_hundred_signs_far() -> None:
    """Else a text of beginnings alone would be looked through once for each."""
    near, far = (f"org-{'x' * signs}1" for signs in (100, 101))
    assert quoted(near, KEY) == "***"
    assert quoted(far, KEY) == far


@WAYS
@pytest.mark.parametrize("status", ["200 OK", "401 No", "302 Found"])
def test_no_key_in_the_id_of_a_call(
    status: str, path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(http(status, WORDS.encode(), f"X-Request-Id: {KEY}")))
    wire.ask(body, path)
    assert wire.stored().upstream_request_id is None


def test_the_beginning_of_a_long_text_without_blanks() -> None:
    said = '{"error":{"message":"moon","input":[' + "0," * 3_000
    assert quoted(said, KEY).startswith(said[:200] + "... sha256:")
    assert quoted("m" * 5_000, KEY).startswith("... sha256:")  # it may be a key


@WAYS
def test_nothing_where_it_said_nothing(
    path: str, body: Any, wire: Wire, upstream: Upstream
) -> None:
    upstream.plays(Answer(http("500 Oops", b"")))
    assert kept(wire, path, body) is None


def test_it_goes_with_the_content(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(http("401 No", WORDS.encode())))
    assert kept(wire, SEED, PLAIN) == SEEN
    wire.store.purge(PurgeSpan(until=9, content_only=True), limit=9)
    assert wire.stored().upstream_said is None


def test_an_event_that_is_no_error_is_not_kept(wire: Wire, upstream: Upstream) -> None:
    upstream.plays(Answer(chunks(said("moon"), event({"choices": []}))))
    assert b"moon" in wire.ask(STREAMED).data
    assert wire.stored().upstream_said is None
