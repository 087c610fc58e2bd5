"""Logs, metrics, request ids and the size limit of bodies: two pure ASGI layers around the application.

A base-class middleware of Starlette's would cost more than half of the throughput (stack.md §6).
"""

import logging
import re
import sys
import time
from typing import Any

import anyio
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ApiError, error_response, internal_error
from app.ids import REQUEST, new_id

log = structlog.get_logger("temper.access")

BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_REQUEST_ID = re.compile(r"^[A-Za-z0-9_.:-]{1,128}$")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Metrics:
    """One registry per application, so that two applications in one process do not add up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "temper_http_requests_total", "Answers by route.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "temper_http_request_seconds",
            "Time to the end of the answer.",
            ["method", "route"],
            registry=self.registry,
            buckets=BUCKETS_SECONDS,
        )


def configure_logging(level: str) -> None:
    """JSON lines on stderr. Called by what starts a process, never by an import."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class RequestContext:
    """Gives each request an id, answers what nobody caught with 500, then logs and counts it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", request_id.encode()))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                log.info("client_disconnected", method=scope["method"], path=scope["path"])
            except Exception:  # the last line: no text of an unexpected error reaches the caller
                log.exception("unhandled_error", method=scope["method"], path=scope["path"])
                if status:
                    raise  # half an answer is out: only closing the connection is honest
                await error_response(internal_error())(scope, receive, send_with_id)
            finally:
                self._record(scope, status or 499, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_template(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"  # callers may invent methods
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        if scope["path"] not in _QUIET:
            log.info("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 2))


def route_template(scope: Scope) -> str:
    """The route as declared, never the path as sent: ids would make endless label values."""
    return str(getattr(scope.get("route"), "path", None) or "unmatched")


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            sent = value.decode("latin-1")
            if _REQUEST_ID.match(sent):
                return str(sent)
    return new_id(REQUEST)


class BodyLimit:
    """Refuses a body over the limit, by its declared length at once, else while it arrives; and one that falls silent.

    Uploads (multipart, and every body of a `/files` route) have their own, larger limit.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int, idle_seconds: float) -> None:
        self._app = app
        self._idle_seconds = idle_seconds
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        limit = self._limit(scope, headers)
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await error_response(body_too_large(limit, int(declared)))(scope, receive, send)
            return
        received = 0
        complete = False

        async def receive_within() -> Message:
            nonlocal received, complete
            if complete:  # what is awaited now is the caller's departure
                return await receive()
            try:
                with anyio.fail_after(self._idle_seconds):
                    message = await receive()
            except TimeoutError as error:
                raise _silent_body(self._idle_seconds) from error
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit:
                raise body_too_large(limit, None)
            return message

        await self._app(scope, receive_within, send)

    def _limit(self, scope: Scope, headers: dict[bytes, bytes]) -> int:
        multipart = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        if multipart or scope["path"].rstrip("/").endswith("/files"):
            return self._max_upload_bytes + (1 << 20 if multipart else 0)  # the parts around the file
        return self._max_body_bytes


def _silent_body(idle_seconds: float) -> ApiError:
    message = f"Nothing of the body arrived for {idle_seconds:g} s."
    return ApiError(408, "body_timeout", message, headers={"connection": "close"})


def body_too_large(limit_bytes: int, sent_bytes: int | None) -> ApiError:
    sent = f"{sent_bytes:,} bytes were announced" if sent_bytes is not None else "more arrived"
    details: dict[str, Any] = {"max_bytes": limit_bytes}
    return ApiError(
        413,
        "too_large",
        f"The body may hold {limit_bytes:,} bytes; {sent}.",
        details=details,
        headers={"connection": "close"},
    )
