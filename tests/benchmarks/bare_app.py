"""What chatport is measured against: Flask and `openai` in the plainest way, and nothing else.

No log, no history, no limits. It takes the same request as chatport's `/openai-completion`, and
reads its settings as the SDK does, from OPENAI_API_KEY and OPENAI_BASE_URL.
"""

from collections.abc import Iterator

import openai
from flask import Flask, Response, jsonify, request
from openai.types.chat import ChatCompletionUserMessageParam

MODEL = "fake"

app = Flask(__name__)
client = openai.OpenAI()


@app.post("/openai-completion")
def openai_completion() -> Response:
    """Answer a prompt."""
    body = request.get_json()
    message: ChatCompletionUserMessageParam = {"role": "user", "content": body["prompt"]}
    if body.get("stream"):
        return Response(_events(message), mimetype="text/event-stream")
    answer = client.chat.completions.create(model=MODEL, messages=[message])
    return jsonify(completion=answer.choices[0].message.content)


def _events(message: ChatCompletionUserMessageParam) -> Iterator[str]:
    for chunk in client.chat.completions.create(model=MODEL, messages=[message], stream=True):
        yield f"data: {chunk.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"
