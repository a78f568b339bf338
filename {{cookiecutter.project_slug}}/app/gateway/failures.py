"""What can go wrong with one attempt, and what follows from it: one table, walked by a test.

The adapter tells which kind a failure is; the loop in `gateway.py` does what the table says. Knows nothing of litellm.
"""

from dataclasses import dataclass
from typing import Literal

from app.errors import (
    AnswerCut,
    ContentFiltered,
    ContextTooLong,
    DeadlineExceeded,
    DeploymentBusy,
    ProviderError,
    ProviderGarbled,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)

Kind = Literal[
    "rate_limited",
    "quota",
    "unavailable",
    "unreachable",
    "timeout",
    "stalled",
    "garbled",
    "cut",
    "forbidden",
    "misconfigured",
    "context",
    "filtered",
    "rejected",
    "busy",
]


@dataclass(frozen=True, slots=True)
class Consequence:
    """What is done: try the same deployment again, or the next one; count it for the breaker, or open at once."""

    retry: Literal["yes", "no"]
    fall_back: Literal["yes", "no", "larger context"]
    breaker: Literal["counts", "opens", "ignores"]
    error: type[ProviderError]


CONSEQUENCES: dict[Kind, Consequence] = {
    # 429, with or without Retry-After
    "rate_limited": Consequence("yes", "yes", "counts", ProviderRateLimited),
    # 402, or 429 with a code that says the money is gone: waiting does not help, and somebody has to be told
    "quota": Consequence("no", "yes", "opens", ProviderRateLimited),
    # 408, 409, 425, 5xx
    "unavailable": Consequence("yes", "yes", "counts", ProviderUnavailable),
    # no connection, or one that broke before the first token
    "unreachable": Consequence("yes", "yes", "counts", ProviderUnavailable),
    # nothing came in time; waiting as long again for the same is rarely worth it
    "timeout": Consequence("no", "yes", "counts", DeadlineExceeded),
    # silence in the middle of a stream, or its deadline there
    "stalled": Consequence("no", "no", "counts", DeadlineExceeded),
    # 200 with a body that is no completion, or that ends before its first token
    "garbled": Consequence("yes", "yes", "counts", ProviderGarbled),
    # the stream broke off after its first token: two models are never glued together
    "cut": Consequence("no", "no", "counts", AnswerCut),
    # 403: the key may not do this, or a firewall does not like this text; one text must not close the door for all
    "forbidden": Consequence("no", "yes", "counts", ProviderMisconfigured),
    # 401, 404: the key or the model's name is wrong, and somebody has to be told
    "misconfigured": Consequence("no", "yes", "opens", ProviderMisconfigured),
    # more input than the deployment reads
    "context": Consequence("no", "larger context", "ignores", ContextTooLong),
    # the provider's content filter; another provider is no way around it
    "filtered": Consequence("no", "no", "ignores", ContentFiltered),
    # 400, 422 and every other 4xx: the request is wrong, and would be wrong elsewhere
    "rejected": Consequence("no", "no", "ignores", ProviderRejected),
    # our own doing: the breaker is open, or too many calls at a time
    "busy": Consequence("no", "yes", "ignores", DeploymentBusy),
}
ALARMING: frozenset[Kind] = frozenset({"quota", "forbidden", "misconfigured"})


class Failure(Exception):  # never leaves the gateway: `as_error` makes it an error of the application
    """One attempt failed. `detail` is for a log: redacted and short; a provider may repeat some of what was asked."""

    def __init__(self, kind: Kind, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after

    @property
    def consequence(self) -> Consequence:
        """The row of the table."""
        return CONSEQUENCES[self.kind]

    def as_error(self) -> ProviderError:
        """What the caller gets."""
        return self.consequence.error(self.detail, retry_after=self.retry_after)


SERVER_ERROR = 500
KINDS: dict[int, Kind] = {
    **dict.fromkeys((401, 404), "misconfigured"),
    402: "quota",
    403: "forbidden",
    **dict.fromkeys((408, 409, 425), "unavailable"),
    429: "rate_limited",
}
# Codes of OpenAI's wire format, and what providers without codes say instead. All come as some plain 400 or 429.
TELLING_STATUS = {400, 402, 403, 413, 422, 429}
TELLING: dict[Kind, tuple[str, ...]] = {
    "context": ("context_length_exceeded", "contextwindowexceeded", "maximum context length", "prompt is too long"),
    "filtered": (
        *("content_filter", "contentpolicyviolation", "content_policy_violation", "responsibleaipolicy"),
        *("moderation", "flagged"),
    ),
    "quota": ("insufficient_quota", "credit balance is too low", "billing_hard_limit"),
}


def classify(status: int | None, said: str) -> Kind:
    """The kind of a failure from its HTTP status (None: no answer came) and the provider's code and text."""
    if status is None:
        return "unreachable"
    if status in TELLING_STATUS:
        said = said.lower()
        for kind, marks in TELLING.items():
            if any(mark in said for mark in marks):
                return kind
    return KINDS.get(status, "unavailable" if status >= SERVER_ERROR else "rejected")
