"""The core of chatport: records, errors, ports, limits and the pipeline. Standard library only."""

from .chat import ChatService
from .errors import ChatportError
from .history import History, HistoryBounds, PastTurn
from .limits import RateLimiter
from .model import (
    ANONYMOUS,
    Allowance,
    Charge,
    ChatRequest,
    Completion,
    CompletionRequest,
    Delta,
    Exchange,
    Limit,
    LogQuery,
    Message,
    State,
    Usage,
)
from .ports import Clock, ConversationStore, LimitCounter, LLMGateway, NewId
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
    "NewId",
    "PastTurn",
    "RateLimiter",
    "Reply",
    "State",
    "Usage",
]
