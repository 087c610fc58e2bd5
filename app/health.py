"""Liveness, readiness and metrics. None of them needs a key, none of them says anything about a tenant."""

import time
from collections.abc import Callable

import anyio
import anyio.to_thread
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from app.db import session_scope
from app.services import Services, get_services

log = structlog.get_logger(__name__)
router = APIRouter(tags=["health"])

TIMEOUT_SECONDS = 1.0
KEEP_SECONDS = 1.0


class Readiness:
    """Asks the database and the broker, at most once a second, each for at most a second."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._answer: dict[str, str] = {}
        self._lock = anyio.Lock()

    async def check(self, services: Services) -> dict[str, str]:
        """Part → "ok" or what is wrong with it, in one word."""
        async with self._lock:
            if time.monotonic() - self._asked_at > KEEP_SECONDS:
                answer: dict[str, str] = {}
                async with anyio.create_task_group() as group:
                    group.start_soon(_ask, "database", lambda: _select_one(services), answer)
                    group.start_soon(_ask, "broker", services.queue.ping, answer)
                self._answer = dict(sorted(answer.items()))
                self._asked_at = time.monotonic()
            return self._answer


def _select_one(services: Services) -> None:
    with session_scope(services.engine, read_only=True) as session:
        session.execute(text("SELECT 1"))


async def _ask(part: str, question: Callable[[], None], answer: dict[str, str]) -> None:
    answer[part] = "timeout"
    with anyio.move_on_after(TIMEOUT_SECONDS):
        try:
            await anyio.to_thread.run_sync(question, abandon_on_cancel=True)
            answer[part] = "ok"
        except Exception as error:  # whatever the driver raises, the part is not ready
            log.warning("not_ready", part=part, error=type(error).__name__)
            answer[part] = "unreachable"


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Database and broker answer", responses={503: {"description": "Something is missing"}})
async def readyz(request: Request) -> JSONResponse:
    readiness: Readiness = request.app.state.readiness
    checks = await readiness.check(get_services(request))
    ready = all(value == "ok" for value in checks.values())
    return JSONResponse({"status": "ready" if ready else "not_ready", "checks": checks}, 200 if ready else 503)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
