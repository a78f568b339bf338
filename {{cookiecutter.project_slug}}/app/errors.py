"""Every error that a person or a client can meet. The docstring is the message; one HTTP status each.

```
AppError                        500
|-- InvalidInput                400
|   |-- InvalidParameter        400
|   |-- RequestRejected         400   (what a client sent to the model `chat`)
|   |-- KeyReused               422
|   |-- UnsupportedDocument     415
|   `-- DocumentTooLarge        413
|-- InvalidApiKey               401
|-- Forbidden                   403
|-- NotFound                    404
|   `-- ModelNotFound           404
|-- Conflict                    409
|   |-- StillRunning            409
|   `-- TooLargeToKeep          409
|-- ConfigurationError          500
|-- NoDocuments                 409
|-- IndexMismatch               409
|-- DatabaseUnavailable         503
|-- BudgetExceeded              429
|-- RateLimited                 429
|-- Overloaded                  503
|-- ShuttingDown                503
`-- ProviderError               502
    |-- ProviderRejected        502   (our request: another try cannot help)
    |-- ProviderMisconfigured   502   (our key, or our model's name)
    |-- ProviderGarbled         502   (200, but not an answer)
    |-- AnswerCut               502   (the beginning of an answer was shown already)
    |-- InvalidOutput           502   (not what the schema demands, after all repairs)
    |-- ContentFiltered         400
    |-- ContextTooLong          400
    |-- ProviderRateLimited     503
    |-- ProviderUnavailable     503
    |-- DeploymentBusy          503   (our own limits: the breaker, or calls at a time)
    `-- DeadlineExceeded        504
```

Knows nothing of HTTP beyond the number, and nothing of any provider.
"""

import inspect
import re


class AppError(Exception):
    """Something went wrong inside the application."""

    status = 500
    inside = False  # whether `message` is for a log or a terminal, and not for clients

    def __init__(self, detail: str = "") -> None:
        self.message = detail or self.sentence()
        super().__init__(self.message)

    @classmethod
    def sentence(cls) -> str:
        """The first paragraph of the class's docstring."""
        return " ".join(inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].split())

    @property
    def told(self) -> str:
        """What a client is told."""
        return self.sentence() if self.inside else self.message

    @property
    def code(self) -> str:
        """The name that programs compare: `no_documents` for NoDocuments."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class InvalidInput(AppError):
    """The request cannot be understood."""

    status = 400


class InvalidParameter(InvalidInput):
    """A parameter of the request is not what is taken here; `param` names it."""

    def __init__(self, param: str | None = None, detail: str = "") -> None:
        super().__init__(detail)
        self.param = param


class RequestRejected(InvalidInput):
    """The model's provider refused this request: a message or a parameter is not what its model takes."""

    inside = True


class KeyReused(InvalidInput):
    """This Idempotency-Key was used for another request."""

    status = 422


class UnsupportedDocument(InvalidInput):
    """This is not a document that can be read: give text, Markdown, HTML, PDF, an Office file, CSV, JSON or a mail."""

    status = 415


class DocumentTooLarge(InvalidInput):
    """The document is larger than MAX_DOCUMENT_BYTES allows."""

    status = 413


class NotFound(AppError):
    """There is no such thing here."""

    status = 404


class ModelNotFound(NotFound):
    """There is no such model here: GET /v1/models lists them."""

    param = "model"


class InvalidApiKey(AppError):
    """This needs a valid API key: `Authorization: Bearer KEY`."""

    status = 401


class Forbidden(AppError):
    """This API key does not allow that."""

    status = 403


class Conflict(AppError):
    """Another request is changing the same thing."""

    status = 409


class StillRunning(Conflict):
    """The first request with this Idempotency-Key is still under way."""

    retry_after = 1.0


class TooLargeToKeep(Conflict):
    """The request with this Idempotency-Key was done, and its answer is larger than what is kept."""


class ConfigurationError(AppError):
    """A setting is missing or wrong."""

    inside = True


class NoDocuments(AppError):
    """There are no documents to answer from yet. Add some with `app ingest PATH` or POST /v1/documents."""

    status = 409


class IndexMismatch(AppError):
    """The index was built with another embedding model."""

    status = 409


class DatabaseUnavailable(AppError):
    """The database cannot be reached."""

    status = 503
    inside = True
    retry_after = 1.0


class BudgetExceeded(AppError):
    """The budget for today is used up."""

    status = 429

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class RateLimited(AppError):
    """Too many requests in too short a time."""

    status = 429

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Overloaded(AppError):
    """The server has more to do than it can; come back in a moment."""

    status = 503
    retry_after = 1.0


class ShuttingDown(AppError):
    """The server is being stopped; ask again, and another one answers."""

    status = 503
    retry_after = 1.0


class ProviderError(AppError):
    """The model provider failed.

    `message` says more: the model, the status and what the provider said, for a log or a terminal. Clients over HTTP
    get the sentence of the class. `retry_after` is in seconds.
    """

    status = 502
    inside = True

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class ProviderRejected(ProviderError):
    """The model provider refused the request."""


class ProviderMisconfigured(ProviderError):
    """The model provider does not accept this application's key, or does not know its model."""


class ProviderGarbled(ProviderError):
    """The model provider answered with something that is no answer."""


class AnswerCut(ProviderError):
    """The answer broke off before its end; what came so far is not the whole of it."""


class InvalidOutput(ProviderError):
    """The model did not write what was asked for, not even after its mistakes were shown to it.

    `raw` is the last thing that it did write.
    """

    def __init__(self, detail: str = "", *, raw: str = "") -> None:
        super().__init__(detail)
        self.raw = raw


class ContentFiltered(ProviderError):
    """The model provider's content filter refused this text."""

    status = 400


class ContextTooLong(ProviderError):
    """This is more text than the model can read at once."""

    status = 400


class ProviderRateLimited(ProviderError):
    """The model provider asks for fewer requests."""

    status = 503


class ProviderUnavailable(ProviderError):
    """The model provider cannot be reached, or failed on its side."""

    status = 503


class DeploymentBusy(ProviderError):
    """No model is free for this request at the moment."""

    status = 503


class DeadlineExceeded(ProviderError):
    """The model did not answer in time."""

    status = 504
