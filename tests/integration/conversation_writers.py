"""The program of a process whose threads all write into the same conversations.

It imports little, since a test waits for two of them.
"""

import json
import os
import sys
import threading
from contextlib import closing

from chatport.adapters import PeeweeStore, ScriptedGateway, SystemClock, random_id
from chatport.domain import ChatRequest, ChatService, Completion, CompletionRequest
from chatport.domain.errors import ConversationBusy

WRITERS = 16


class Echo(ScriptedGateway):
    """Answers with what it was asked."""

    def complete(self, request: CompletionRequest) -> Completion:
        roles = [message.role for message in request.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        return Completion(text=f"re: {request.messages[-1].text}", finish_reason="stop")


def process() -> None:
    """Write a prompt from each thread into each conversation; wait while it is busy."""
    name, path, conversations = sys.argv[1:]
    problems: list[str] = []
    with closing(PeeweeStore(path)) as store:
        service = ChatService(
            store=store,
            gateway=Echo(),
            clock=SystemClock(),
            new_id=random_id,
            model="model-1",
        )

        def write(writer: int) -> None:
            try:
                for user in range(int(conversations)):
                    say(service, f"user-{user}", f"{name}-{writer}")
            except BaseException as error:  # noqa: BLE001  # the test is told
                problems.append(repr(error))

        store.check()
        os.write(1, b"ready\n")
        sys.stdin.readline()
        threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    os.write(1, json.dumps(problems).encode())


def say(service: ChatService, user: str, prompt: str) -> None:
    """Say something as soon as nobody else is being answered."""
    while True:
        try:
            reply = service.reply(ChatRequest(prompt=prompt, user_id=user))
        except ConversationBusy:
            threading.Event().wait(0.005)
        else:
            assert reply.text == f"re: {prompt}"
            return


if __name__ == "__main__":
    process()
