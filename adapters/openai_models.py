"""Reading the list of models of OpenAI's protocol."""

import json
from collections.abc import Sequence
from typing import Any

from chatport.domain.errors import UpstreamInvalidResponse
from chatport.domain.models import ModelCard

from .openai_answers import parsed


def model_cards(data: bytes) -> Sequence[ModelCard]:
    """Translate a list of models.

    Raises:
        UpstreamInvalidResponse: It is none.
    """
    answer = parsed(data)
    models = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        raise UpstreamInvalidResponse(upstream_status=200)
    return [
        ModelCard(id=model["id"], facts=model)
        for model in models
        if isinstance(model, dict) and isinstance(model.get("id"), str) and _can_be_told(model)
    ]


def _can_be_told(facts: dict[str, Any]) -> bool:
    """Return whether the facts are JSON; Python reads a little more, such as NaN."""
    try:
        return bool(json.dumps(facts, allow_nan=False, ensure_ascii=False).encode())
    except ValueError:  # UnicodeEncodeError is one too
        return False
