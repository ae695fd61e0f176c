"""The README's curl lines and its example with the SDK, word for word but for the port."""

import http.client
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
CURLS = re.findall(r"^curl .*$", README, re.MULTILINE)


def perform(line: str, port: int) -> str:
    """Do what curl would do with the options that the README uses."""
    words = shlex.split(line.replace(":8000/", f":{port}/"))[1:]
    method, body, headers, path = "GET", None, {}, ""
    while words:
        word = words.pop(0)
        if word == "-H":
            name, value = words.pop(0).split(": ")
            headers[name] = value
        elif word == "-d":
            method, body = "POST", words.pop(0)
        elif word == "-X":
            method = words.pop(0)
        elif word != "-N":
            path = word.split(f":{port}", 1)[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def test_the_curl_lines_work_one_after_the_other(serve: Callable[..., Any]) -> None:
    service = serve("--offline", OPENAI_API_KEY="")
    answers = [perform(line, service.port) for line in CURLS]
    first, second, streamed, conversation, erased, relayed = answers
    assert json.loads(first) == {"user_id": "ada", "completion": "You said: My name is Ada."}
    assert json.loads(second)["completion"] == (
        "You said: What is my name?\nBefore that you said: My name is Ada.\nEarlier turns: 1"
    )
    assert streamed.startswith('event: delta\ndata: {"text": "You"}\n\n')
    assert "event: done\n" in streamed
    states = [exchange["state"] for exchange in json.loads(conversation)["exchanges"]]
    assert states == ["completed", "completed", "completed"]
    assert json.loads(erased) == {"user_id": "ada", "erased": 3}
    message = json.loads(relayed)["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "You said: Hello"}
    assert "OFFLINE" in service.log.read_text()


def test_the_example_with_the_sdk_works(serve_anew: Callable[..., Any]) -> None:
    service = serve_anew("--offline", OPENAI_API_KEY="")
    example, *_ = re.findall(r"```py\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example.replace(":8000/", f":{service.port}/"), names)
    assert names["answer"].choices[0].message.content == "You said: Hello"
    names["client"].close()
    asked = perform("curl http://127.0.0.1:8000/conversations/ada", service.port)
    assert [each["prompt"] for each in json.loads(asked)["exchanges"]] == ["Hello"]
