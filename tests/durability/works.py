"""What a process does that is to be killed, each from a store that was just opened."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

from chatport.adapters import (
    PeeweeKeys,
    PeeweeStore,
    Script,
    ScriptedGateway,
    SqliteSession,
    SystemClock,
    random_key_id,
    random_secret,
)
from chatport.domain import (
    Budget,
    Caller,
    ChatRequest,
    ChatService,
    RateLimiter,
    Relay,
    RequestText,
    Unit,
    Usage,
)
from chatport.domain.errors import UpstreamTimeout
from chatport.domain.keys import Keys
from chatport.domain.relay import Once
from chatport.domain.retention import Retention
from chatport.domain.rules import Period

from .deadly import Diary, Witnessed

LONG = "more than a checkpoint " * 200
USAGE = Usage(prompt_tokens=10, completion_tokens=5)
ANSWER = Script(chunks=("An ", "answer."), usage=USAGE)
LIFE_STORY = Script(chunks=(LONG, LONG, "The end."), usage=USAGE)
FAILURE = Script(raises=UpstreamTimeout())
BUDGET = Budget(amount=10**9, unit=Unit.TOKENS, period=Period.MONTH)


def service_of(store: PeeweeStore, gateway: ScriptedGateway, prefix: str) -> ChatService:
    ids = count()
    return ChatService(
        store=store,
        gateway=gateway,
        clock=SystemClock(),
        new_id=lambda: f"{prefix}-{next(ids)}",
        limiter=RateLimiter(user=[BUDGET], total=[BUDGET]),
        model="model-1",
        max_output_tokens=500,
    )


def relayed(once: Once) -> ChatRequest:
    text = RequestText(messages=['"first"', '"asked under a key"'], parameters="{}")
    relay = Relay(model="model-1", body=b"asked under a key", text=text)
    return ChatRequest(prompt="asked under a key", relay=relay, once=once, user_id="ada")


ONCE = Once(key="key-1", request_hash="hash-1")


def keys_of(session: SqliteSession) -> Keys:
    return Keys(
        PeeweeKeys(session), clock=SystemClock(), new_id=random_key_id, new_secret=random_secret
    )


def a_reply(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, ANSWER), "new")
    reply = service.reply(ChatRequest(prompt="Question", user_id="ada"))
    diary.tells("answered", reply.exchange_id, reply.text)


def a_stream(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, LIFE_STORY), "new")
    stream = service.stream(ChatRequest(prompt="Question", user_id="ada"))
    for text in stream:
        diary.tells("said", stream.exchange_id, text)
    diary.tells("answered", stream.exchange_id, LONG + LONG + "The end.")


def a_stream_that_the_client_leaves(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, LIFE_STORY), "new")
    stream = service.stream(ChatRequest(prompt="Question", user_id="ada"))
    diary.tells("said", stream.exchange_id, next(stream))
    stream.close()
    diary.tells("ended", stream.exchange_id, "cancelled")


def a_call_that_fails(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, FAILURE), "new")
    try:
        service.reply(ChatRequest(prompt="Question", user_id="ada"))
    except UpstreamTimeout:
        diary.tells("ended", "new-0", "failed")


def a_request_under_a_key(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, ANSWER), "new")
    for _ in range(2):
        reply = service.reply(relayed(ONCE))
        diary.tells("answered", reply.exchange_id, reply.text)


def three_at_once(store: PeeweeStore, diary: Diary) -> None:
    service = service_of(store, Witnessed(diary, ANSWER), "new")

    def talk(user_id: str) -> None:
        reply = service.reply(ChatRequest(prompt=f"Question of {user_id}", user_id=user_id))
        diary.tells("answered", reply.exchange_id, reply.text)

    threads = [threading.Thread(target=talk, args=(name,)) for name in ("ada", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def an_erasure(store: PeeweeStore, diary: Diary) -> None:
    store.erase("anonymous", "bob")
    diary.tells("erased", "bob")


def a_purge(store: PeeweeStore, diary: Diary) -> None:
    retention = Retention(store, SystemClock())
    for _ in retention.purge(retention.span()):
        pass
    diary.tells("purged")


def a_recovery(store: PeeweeStore, diary: Diary) -> None:
    store.recover(datetime.now(UTC))
    diary.tells("recovered")


def a_key(store: PeeweeStore, diary: Diary) -> None:
    keys = keys_of(store.session)
    diary.tells("keyed", keys.create(Caller(name="shop")))
    diary.tells("keyed", keys.rotate("shop", timedelta()))


def an_opening(store: PeeweeStore, _: Diary) -> None:
    store.check()


def two_streams_that_are_killed(store: PeeweeStore, _: Diary) -> None:
    service = service_of(store, ScriptedGateway(LIFE_STORY), "killed")
    for user_id in ("ada", "bob"):
        stream = service.stream(ChatRequest(prompt="Killed", user_id=user_id))
        next(stream)
        next(stream)
    os.kill(os.getpid(), signal.SIGKILL)


WORKS: dict[str, Callable[[PeeweeStore, Diary], None]] = {
    "a reply": a_reply,
    "a stream": a_stream,
    "a stream that the client leaves": a_stream_that_the_client_leaves,
    "a call that fails": a_call_that_fails,
    "a request under a key": a_request_under_a_key,
    "three at once": three_at_once,
    "an erasure": an_erasure,
    "a purge": a_purge,
    "a recovery": a_recovery,
    "a key": a_key,
    "an opening": an_opening,
    "two streams that are killed": two_streams_that_are_killed,
}
