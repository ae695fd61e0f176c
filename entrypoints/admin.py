"""What those who look after the service work with."""

from dataclasses import dataclass

from chatport.domain.admin_ports import UsageLog
from chatport.domain.keys import Keys
from chatport.domain.ports import Clock, ConversationStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """What admins look at and change."""

    keys: Keys
    usage: UsageLog
    store: ConversationStore
    clock: Clock
