"""What a caller can be told, and how.

    ApiError                    an answer with status, code and message; raised anywhere in the gateway
    ├── NotFound                404: absent, or another tenant's (the caller cannot tell which)
    └── Conflict                409: the state of things forbids it
    tsfm.errors.TemperError     from the core; `STATUS_BY_CODE` and `_STATUS_BY_TYPE` give its status

Every answer that is not a success has the body `{"error": {"message", "type", "param", "code", "details"?}}` and the
header `x-request-id`. Every code is explained, with its mend, in `docs/errors.md`; a test compares the two.
"""

import errno
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DataError as UnstorableValue
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tsfm.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    RunError,
    TemperError,
    WeightsError,
)

log = structlog.get_logger(__name__)

MAX_PROBLEMS = 20


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """What every status of 400 and above carries."""

    error: ErrorObject


class ApiError(HTTPException):
    """An HTTPException, so that FastAPI lets it through even while a body is being read."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        type: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers) if headers else None)
        self.code = code
        self.message = message
        self.param = param
        self.type = type or _type_of(status)
        self.details = dict(details) if details else None


class StorageUnavailable(OSError):
    """The object store does not answer or refuses us. 503; a run is tried again."""


class NotFound(ApiError):
    def __init__(self, kind: str, name: str, *, param: str | None = None, known: tuple[str, ...] = ()) -> None:
        code = f"{kind.replace(' ', '_')}_not_found"
        choices = f" Known: {', '.join(known)}." if known else ""
        super().__init__(404, code, f"There is no {kind} {name!r}.{choices}", param=param)


class Conflict(ApiError):
    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        # The openai client repeats every 409 by itself; without a time to wait for, nothing will have changed by then.
        headers = {"x-should-retry": "false"} if retry_after is None else {"retry-after": str(retry_after)}
        super().__init__(409, code, message, param=param, headers=headers)


STATUS_BY_CODE: dict[str, int] = {
    "too_large": 413,
    "unsupported_format": 415,
    "binary": 415,
    "storage_full": 507,
    "license_not_accepted": 422,
}
_STATUS_BY_TYPE: Sequence[tuple[type[TemperError], int]] = (
    (DataError, 422),
    (ConfigError, 422),
    (WeightsError, 503),
    (ArtifactError, 500),
    (RunError, 500),
)
_CODE_BY_STATUS = {
    400: "bad_request",
    401: "invalid_api_key",
    403: "missing_scope",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
    507: "storage_full",
}


def _type_of(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 404:
            return "not_found_error"
        case 409:
            return "conflict_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "invalid_request_error" if status < 500 else "server_error"


def as_api_error(error: TemperError) -> ApiError:
    """The core's error with its HTTP status; server-side kinds keep their text out of the answer."""
    status = STATUS_BY_CODE.get(error.code) or next(s for kind, s in _STATUS_BY_TYPE if isinstance(error, kind))
    if status == 500:
        log.error("core_error", code=error.code, message=error.message)
        return internal_error()
    return ApiError(status, error.code, error.message, param=error.param, details=error.details)


def internal_error() -> ApiError:
    return ApiError(500, "internal_error", "Something went wrong here. Quote the x-request-id when you report it.")


def error_body(error: ApiError) -> dict[str, Any]:
    """What every status of 400 and above carries, as JSON types."""
    body: dict[str, Any] = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    if error.details:
        body["details"] = error.details
    return {"error": body}


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error_body(error), status_code=error.status_code, headers=error.headers)


def validation_error(error: RequestValidationError) -> ApiError:
    """All problems of a request at once; the first one is the message, the rest stand in `details`."""
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        reason = str(found[0].get("ctx", {}).get("error", "not JSON"))
        return ApiError(400, "malformed_json", f"The body is not valid JSON: {reason}.")
    problems = [{"param": _place(item["loc"]), "message": item["msg"], "kind": item["type"]} for item in found]
    if any(
        _is_alternative(item["loc"]) for item in found
    ):  # one wrong value is one problem, whatever it might have been
        problems = list({problem["param"]: problem for problem in reversed(problems)}.values())[::-1]
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    unknown = first["kind"] == "extra_forbidden"
    place = first["param"] or "The body"
    message = f"Unknown field {first['param']!r}{more}." if unknown else f"{place}: {first['message']}{more}."
    return ApiError(
        422,
        "unknown_field" if unknown else "invalid_request",
        message,
        param=first["param"] or None,
        details={"problems": problems[:MAX_PROBLEMS], "num_problems": len(problems)},
    )


def _wrong_content_type(request: Request, error: RequestValidationError) -> ApiError | None:
    """`curl -d` says form when it means JSON: the body then arrives unparsed."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not sent or sent.endswith(("/json", "+json")) or not any(tuple(e["loc"]) == ("body",) for e in error.errors()):
        return None
    message = f"This route reads JSON, not {sent}: send `Content-Type: application/json`."
    return ApiError(415, "unsupported_media_type", message)


def _place(location: Sequence[int | str]) -> str:
    parts = [str(part) for part in location]
    if _is_alternative(location):
        parts = parts[:-1]
    if parts and parts[0] in {"body", "query", "path", "header"}:
        parts = parts[1:] or parts
    return ".".join(parts)


def _is_alternative(location: Sequence[int | str]) -> bool:
    """Whether a place ends in a type that the field might have had: pydantic's own name, no field of the caller's."""
    return (
        len(location) > 2
        and re.fullmatch(r"(constrained-)?(str|int|float|bool)|(dict|list)\[.*\]", str(location[-1])) is not None
    )


def install(app: FastAPI) -> None:
    """Registers the handlers; an error that none of them knows is answered by the middleware in `telemetry`."""

    async def on_api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _CODE_BY_STATUS.get(error.status_code, "bad_request")
        message = str(error.detail)
        if error.status_code == 404:
            message = f"There is no route {request.method} {request.url.path}."
        elif error.status_code == 405:
            message = f"{request.url.path} does not accept {request.method}."
        return error_response(ApiError(error.status_code, code, message, headers=error.headers))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_wrong_content_type(request, error) or validation_error(error))

    async def on_core_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, TemperError)
        return error_response(as_api_error(error))

    async def on_database_away(request: Request, error: Exception) -> Response:
        log.error("database_unavailable", error=type(error).__name__, reason=str(getattr(error, "orig", error))[:200])
        message = "The database does not answer: try again shortly."
        return error_response(ApiError(503, "unavailable", message, headers={"retry-after": "1"}))

    async def on_unstorable(request: Request, error: Exception) -> Response:
        # PostgreSQL takes no zero byte in a text, wherever it came from: path, query or body.
        message = "A value of this request cannot be stored: does a text hold a zero byte?"
        return error_response(ApiError(422, "invalid_request", message))

    async def on_storage_away(request: Request, error: Exception) -> Response:
        log.error("storage_unavailable", reason=str(error)[:200])
        message = "The storage does not answer: try again shortly."
        return error_response(ApiError(503, "unavailable", message, headers={"retry-after": "1"}))

    async def on_os_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        if error.errno == errno.ENOSPC:
            log.error("disk_full")
            return error_response(ApiError(507, "storage_full", "The disk of this service is full."))
        raise error

    app.add_exception_handler(StorageUnavailable, on_storage_away)
    app.add_exception_handler(OSError, on_os_error)
    app.add_exception_handler(UnstorableValue, on_unstorable)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(OperationalError, on_database_away)
    app.add_exception_handler(PoolTimeoutError, on_database_away)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(TemperError, on_core_error)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: those that every route can give, and `statuses`."""
    every = sorted({400, 401, 403, 408, 413, 422, 500, 503, *statuses})
    return {status: {"model": ErrorBody, "description": HTTPStatus(status).phrase} for status in every}
