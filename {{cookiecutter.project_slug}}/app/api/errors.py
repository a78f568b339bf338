"""Errors to responses: one shape, `{"error": {message, type, param, code}}`, and the status the error names.

What a client sees of an unforeseen error is a sentence; the rest is in the log.
"""

import math

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError, BudgetExceeded, InvalidApiKey, ProviderRejected, RequestRejected

log = structlog.get_logger(__name__)
CLIENT_ERRORS = range(400, 500)
IN_VAIN = (BudgetExceeded, ProviderRejected)  # is another try soon
WORTH_A_LOOK = (BudgetExceeded, RequestRejected)  # though they are the client's
METHODS = ("GET", "HEAD", "POST", "DELETE")

ErrorBody = dict[str, dict[str, str | None]]


def body(status: int, message: str, code: str, param: str | None = None) -> ErrorBody:
    """The error object that OpenAI's clients understand."""
    kind = "invalid_request_error" if status in CLIENT_ERRORS else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def public(error: Exception) -> ErrorBody:
    """An error as a client sees it; what is wrong inside, or what a provider said, is for the log."""
    if isinstance(error, HTTPException):
        return body(error.status_code, str(error.detail), "http_error")
    if not isinstance(error, AppError):
        return body(500, "something went wrong inside the application", "internal_error")
    return body(error.status, error.told, error.code, getattr(error, "param", None))


def what_is_wrong(error: RequestValidationError) -> tuple[str | None, str]:
    """The parameter that is wrong, if it is one, and why: the first of them, where there are several."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return None, f"the body is not valid JSON, at character {first['loc'][-1]}"
    if first["type"] == "model_attributes_type" and first["loc"] == ("body",):
        return None, "the body has to be a JSON object, sent with Content-Type: application/json"
    param = ".".join(str(part) for part in first["loc"][1:]).encode("ascii", "backslashreplace").decode() or None
    return param, f"{param or 'request'}: {first['msg']}"


def report(error: Exception) -> None:
    """Say in the log what a client is not told."""
    if isinstance(error, AppError):
        if error.status not in CLIENT_ERRORS or isinstance(error, WORTH_A_LOOK):
            log.error("the request failed", code=error.code, detail=error.message)
    elif not isinstance(error, HTTPException):
        log.error("unforeseen error", exc_info=error)


def response_to(error: Exception) -> JSONResponse:
    """The whole response to an error, which is reported."""
    report(error)
    if isinstance(error, HTTPException):
        return JSONResponse(public(error), error.status_code, error.headers)
    wait = getattr(error, "retry_after", None)
    headers = {} if wait is None else {"Retry-After": str(max(1, math.ceil(wait)))}
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, IN_VAIN):
        headers["X-Should-Retry"] = "false"  # OpenAI's clients try twice more otherwise
    return JSONResponse(public(error), error.status if isinstance(error, AppError) else 500, headers)


class AnswerErrors:
    """Answers what the middleware inside raises, and what nobody foresaw; routes' errors have their handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. An error after the response has begun is the server's: it closes the connection."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise
            await response_to(error)(scope, receive, send)


def add_error_handlers(app: FastAPI) -> None:
    """Give every error of a route the one shape."""

    @app.exception_handler(AppError)
    @app.exception_handler(HTTPException)
    async def known(_: Request, error: Exception) -> JSONResponse:
        return response_to(error)

    @app.exception_handler(405)
    async def other_method(request: Request, error: Exception) -> JSONResponse:
        """Name every method that there is; a route of FastAPI's knows its own alone."""
        response, routes = response_to(error), request.app.routes
        with_each = ((method, {**request.scope, "method": method}) for method in METHODS)
        there_are = (
            method for method, scope in with_each if any(one.matches(scope)[0] is Match.FULL for one in routes)
        )
        response.headers["Allow"] = ", ".join(there_are)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        param, problem = what_is_wrong(error)
        return JSONResponse(body(422, problem, "invalid_request", param), 422)
