"""Every error that a person or a client can meet. The docstring is the message; one HTTP status each.

```
AppError                        500
|-- InvalidInput                400
|   |-- UnsupportedDocument     415
|   `-- DocumentTooLarge        413
|-- NotFound                    404
|-- ConfigurationError          500
|-- NoDocuments                 409
|-- IndexMismatch               409
|-- DatabaseUnavailable         503
`-- ProviderError               502
    |-- ProviderRejected        502   (our request or our key: another try cannot help)
    |-- ProviderRateLimited     503
    |-- ProviderUnavailable     503
    `-- DeadlineExceeded        504
```

Knows nothing of HTTP beyond the number, and nothing of any provider.
"""

import inspect
import re


class AppError(Exception):
    """Something went wrong inside the application."""

    status = 500

    def __init__(self, detail: str = "") -> None:
        self.message = detail or inspect.cleandoc(self.__doc__ or "")
        super().__init__(self.message)

    @property
    def code(self) -> str:
        """The name that programs compare: `no_documents` for NoDocuments."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class InvalidInput(AppError):
    """The request cannot be understood."""

    status = 400


class UnsupportedDocument(InvalidInput):
    """This is not a document that can be read: give Markdown, plain text, HTML or PDF."""

    status = 415


class DocumentTooLarge(InvalidInput):
    """The document is larger than MAX_DOCUMENT_BYTES allows."""

    status = 413


class NotFound(AppError):
    """There is no such thing here."""

    status = 404


class ConfigurationError(AppError):
    """A setting is missing or wrong."""


class NoDocuments(AppError):
    """There are no documents to answer from yet. Add some with `app ingest PATH` or POST /v1/documents."""

    status = 409


class IndexMismatch(AppError):
    """The index was built with another embedding model."""

    status = 409


class DatabaseUnavailable(AppError):
    """The database cannot be reached."""

    status = 503


class ProviderError(AppError):
    """The model provider failed."""

    status = 502
    retryable = False

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class ProviderRejected(ProviderError):
    """The model provider refused the request: look at the model's name, the key and the parameters."""


class ProviderRateLimited(ProviderError):
    """The model provider asks for fewer requests."""

    status = 503
    retryable = True


class ProviderUnavailable(ProviderError):
    """The model provider cannot be reached, or failed on its side."""

    status = 503
    retryable = True


class DeadlineExceeded(ProviderError):
    """The model did not answer within DEADLINE_SECONDS."""

    status = 504
