"""The core of chatport: records, errors, ports, limits and the pipeline. Standard library only."""

from .admin_ports import KeyStore, UsageLog
from .allowance import Allowance, Charge
from .callers import ANONYMOUS, Caller, Role
from .chat import ChatService
from .errors import ChatportError
from .history import History, HistoryBounds, PastTurn
from .limits import RateLimiter
from .model import (
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
from .ports import Clock, ConversationStore, LimitCounter, LLMGateway, NewId, PriceList
from .relay import Once, Relay, RequestText
from .reply import Reply
from .rules import Budget, InFlight, Limit, Period, Unit
from .spending import Claim
from .stream import ChatStream
from .upstreams import Upstream, Upstreams

__all__ = [
    "ANONYMOUS",
    "Allowance",
    "Budget",
    "Caller",
    "Charge",
    "ChatRequest",
    "ChatService",
    "ChatStream",
    "ChatportError",
    "Claim",
    "Clock",
    "Completion",
    "CompletionRequest",
    "ConversationStore",
    "Delta",
    "Exchange",
    "History",
    "HistoryBounds",
    "InFlight",
    "KeyStore",
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
    "Period",
    "PriceList",
    "RateLimiter",
    "Relay",
    "Reply",
    "RequestText",
    "Role",
    "State",
    "Unit",
    "Upstream",
    "Upstreams",
    "Usage",
    "UsageLog",
]
