"""Errors to responses: one shape, `{"error": {message, type, param, code}}`, and the status the error names.

What a client sees of an unforeseen error is a sentence; the rest is in the log.
"""

import math

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import AppError, BudgetExceeded, ConfigurationError, ProviderError

log = structlog.get_logger(__name__)
CLIENT_ERRORS = range(400, 500)


def body(status: int, message: str, code: str, param: str | None = None) -> dict[str, dict[str, str | None]]:
    """The error object that OpenAI's clients understand."""
    kind = "invalid_request_error" if status in CLIENT_ERRORS else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def public(error: AppError) -> dict[str, dict[str, str | None]]:
    """An error of ours as a client sees it; what is wrong inside, or what a provider said, is for the log."""
    inside = isinstance(error, ProviderError | ConfigurationError)
    return body(error.status, error.sentence() if inside else error.message, error.code)


def report(error: AppError) -> None:
    """Say in the log what a client is not told."""
    if error.status not in CLIENT_ERRORS or isinstance(error, BudgetExceeded):
        log.error("the request failed", code=error.code, detail=error.message)


def add_error_handlers(app: FastAPI) -> None:
    """Give every error the one shape."""

    @app.exception_handler(AppError)
    async def ours(_: Request, error: AppError) -> JSONResponse:
        report(error)
        wait = getattr(error, "retry_after", None)
        headers = {} if wait is None else {"Retry-After": str(math.ceil(wait))}
        return JSONResponse(public(error), error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return JSONResponse(body(422, f"{param or 'request'}: {first['msg']}", "invalid_request", param), 422)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(body(error.status_code, str(error.detail), "http_error"), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("unforeseen error", path=request.url.path, exc_info=error)
        return JSONResponse(body(500, "something went wrong inside the application", "internal_error"), 500)
