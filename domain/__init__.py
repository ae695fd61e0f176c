"""The core of chatport: records, errors, ports, limits and the pipeline. Standard library only."""

from .allowance import Allowance, Charge, Limit
from .chat import ChatService
from .errors import ChatportError
from .history import History, HistoryBounds, PastTurn
from .limits import RateLimiter
from .model import (
    ANONYMOUS,
    ChatRequest,
    Completion,
    CompletionRequest,
    Delta,
    Exchange,
    LogQuery,
    Message,
    State,
    Usage,
)
from .models import ModelCard, ModelCatalog
from .ports import Clock, ConversationStore, LimitCounter, LLMGateway, NewId
from .relay import Once, Relay, RequestText
from .stream import ChatStream
from .turn import Reply

__all__ = [
    "ANONYMOUS",
    "Allowance",
    "Charge",
    "ChatRequest",
    "ChatService",
    "ChatStream",
    "ChatportError",
    "Clock",
    "Completion",
    "CompletionRequest",
    "ConversationStore",
    "Delta",
    "Exchange",
    "History",
    "HistoryBounds",
    "LLMGateway",
    "Limit",
    "LimitCounter",
    "LogQuery",
    "Message",
    "ModelCard",
    "ModelCatalog",
    "NewId",
    "Once",
    "PastTurn",
    "RateLimiter",
    "Relay",
    "Reply",
    "RequestText",
    "State",
    "Usage",
]
