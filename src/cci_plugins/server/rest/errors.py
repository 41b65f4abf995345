"""Error answers in the data plane's own form.

The body is `{"error": {"code", "message", "traceId"}}`, with the header `x-ms-error-code`
(github.com/microsoft/azure-container-apps issue 1665 quotes it).
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_hex

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from cci_plugins.common.log import logger
from cci_plugins.errors import CodeInterpreterError, PoolExhaustedError
from cci_plugins.mcp_client.failures import get_code_and_status

SERVER_FAULT = "The server failed. Its log has the details."


class RequestError(Exception):
    """A request that the server refuses.

    Attributes:
        status: HTTP status.
        code: The error's code.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def build_error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Build an answer with an error body."""
    body = {"error": {"code": code, "message": message, "traceId": token_hex(16)}}
    return JSONResponse(body, status, {"x-ms-error-code": code, **(headers or {})})


def build_too_large_response(max_bytes: int) -> JSONResponse:
    """Build the answer to a request whose body is too large."""
    message = f"The body has more than {max_bytes:,} bytes."
    return build_error_response(413, "RequestTooLarge", message)


async def _handle_request_error(_: Request, error: Exception) -> Response:
    status, code = (error.status, error.code) if isinstance(error, RequestError) else (500, "")
    return build_error_response(status, code, str(error))


async def _handle_pool_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, CodeInterpreterError):
        raise error
    code, status = get_code_and_status(error)
    if isinstance(error, PoolExhaustedError):
        wait = 1 if error.retry_after is None else max(1, round(error.retry_after))
        flat = {"code": code, "message": str(error)}  # the one error without a frame
        return JSONResponse(flat, status, {"x-ms-error-code": code, "retry-after": str(wait)})
    return build_error_response(status, code, str(error))


async def _handle_http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = error.detail.replace(" ", "")
    return build_error_response(error.status_code, code, f"{error.detail}.", error.headers)


async def _handle_disconnect(_: Request, __: Exception) -> Response:
    """Answer a client that left in the middle of its request. Nobody receives it."""
    return Response(status_code=400)


async def _handle_unexpected_error(_: Request, error: Exception) -> Response:
    logger.error("a request failed because of a fault in the server", exc_info=error)
    return build_error_response(500, "InternalServerError", SERVER_FAULT)


HANDLERS = {
    RequestError: _handle_request_error,
    CodeInterpreterError: _handle_pool_error,
    HTTPException: _handle_http_error,
    ClientDisconnect: _handle_disconnect,
    Exception: _handle_unexpected_error,
}
