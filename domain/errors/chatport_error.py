"""What all of chatport's errors have in common."""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..allowance import Allowance  # noqa: TID252  # inside a layer, imports are relative
    from ..model import Usage  # noqa: TID252  # as above


class ChatportError(Exception):
    """Anything that chatport reports; its facts are attributes.

    Attributes:
        code: The machine word, stored with the exchange and sent to the client.
        retry_after_seconds: How long to wait before trying again can help; None if unknown.
        upstream_status: The HTTP status of the provider's answer, where there was one.
        upstream_request_id: The provider's own id of the call, where it sent one.
        upstream_said: The beginning of what the provider said, for the log and nobody else.
        attempts: How often the provider was called.
        waits_as_told: `retry_after_seconds` is the provider's own wish, and no guess of ours.
        allowances: What is left of each limit; set once the request has met the limiter.
        may_be_billed: The provider may have worked for this call: trying again may cost twice.
        usage: What the provider has counted for an answer that is of no use; None if nothing.
        passed_on: The provider's own words about a mistake of the caller's, in its protocol and
            without secrets; only for a request that came in that protocol too.
        exchange_id: The exchange that ended so; None if there is none.
        replayed: The exchange had ended so before; this only says it once more.
    """

    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = (
        "Something went wrong inside chatport; the operator finds it in the log."
    )
    may_be_billed: bool = False
    attempts: int = 1

    def __init__(
        self,
        message: str = "",
        *,
        retry_after_seconds: float | None = None,
        upstream_status: int | None = None,
        upstream_request_id: str | None = None,
    ) -> None:
        super().__init__(message or self.message)
        self.retry_after_seconds = retry_after_seconds
        self.upstream_status = upstream_status
        self.upstream_request_id = upstream_request_id
        self.allowances: Sequence[Allowance] = ()
        self.upstream_said = ""
        self.waits_as_told = False
        self.usage: Usage | None = None
        self.passed_on: bytes | None = None
        self.exchange_id: str | None = None
        self.replayed = False
