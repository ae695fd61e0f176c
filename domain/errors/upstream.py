"""The provider failed."""

from .chatport_error import ChatportError


class UpstreamError(ChatportError):
    """The provider failed in a way that has no better name."""

    code = "upstream_error"
    message = "The provider of the model failed."


class UpstreamTimeout(UpstreamError):
    """The provider did not answer, or did not finish, in time. It may bill the call."""

    code = "upstream_timeout"
    message = "The provider of the model did not answer in time."
    may_be_billed = True


class UpstreamUnreachable(UpstreamError):
    """No connection to the provider could be made."""

    code = "upstream_unreachable"
    message = "The provider of the model cannot be reached."


class UpstreamHungUp(UpstreamUnreachable):
    """The request was sent, and the connection broke before an answer came. It may be billed."""

    message = "The connection to the provider broke before it answered."
    may_be_billed = True


class UpstreamDisconnected(UpstreamError):
    """The connection broke while the provider was answering."""

    code = "upstream_disconnected"
    message = "The connection to the provider broke before the answer was complete."
    may_be_billed = True


class UpstreamTruncated(UpstreamError):
    """The stream ended politely, but without the finish reason that marks a whole answer."""

    code = "upstream_truncated"
    message = "The provider's answer ended before it was complete."
    may_be_billed = True


class UpstreamInvalidResponse(UpstreamError):
    """The provider answered with something that is no completion."""

    code = "upstream_invalid_response"
    message = "The provider sent an answer that cannot be understood."
    may_be_billed = True


class UpstreamAuthFailed(UpstreamError):
    """The provider refused chatport's own key."""

    code = "upstream_auth_failed"
    message = "The provider refused the server's key; the operator must check it."


class UpstreamModelUnavailable(UpstreamError):
    """The provider does not know the model, or does not offer it to this key."""

    code = "upstream_model_unavailable"
    message = "The provider does not know the configured model, or the address is not its API's."


class UpstreamRejected(UpstreamError):
    """The provider refused the request as malformed."""

    code = "upstream_rejected"
    message = "The provider refused the request."


class UpstreamRateLimited(UpstreamError):
    """The provider's own limit on chatport's key is reached."""

    code = "upstream_rate_limited"
    message = "The provider is limiting this server's requests; try again shortly."


class UpstreamQuotaExhausted(UpstreamError):
    """The account behind chatport's key has no credit left."""

    code = "upstream_quota_exhausted"
    message = "The server's account at the provider has no credit left."


class UpstreamUnavailable(UpstreamError):
    """It has failed so often that it is left alone for a while; it was not called."""

    code = "upstream_unavailable"
    message = "The provider of the model has failed repeatedly; it is asked again shortly."
    attempts = 0


class UpstreamOverloaded(UpstreamError):
    """The provider says that it is overloaded; in its code a plain `upstream_error`."""

    message = "The provider of the model is overloaded; try again shortly."
