"""The application factory: `uvicorn --factory app.main:create_app`. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
import structlog
from anyio import CapacityLimiter
from fastapi import FastAPI
from sqlalchemy import Engine

from app import errors
from app.api import include_routers
from app.auth.bootstrap import bootstrap
from app.auth.cache import KeyCache
from app.db import make_engine, upgrade
from app.files.upload import remove_leftovers
from app.health import Readiness
from app.jobs.measurements import Measuring
from app.jobs.stream import EventHub
from app.queue import CeleryQueue, Queue
from app.services import Services
from app.settings import Settings
from app.storage import ObjectStore
from app.telemetry import BodyLimit, Metrics, RequestContext, configure_logging

log = structlog.get_logger(__name__)

VERSION = "0.1.0"


def create_app(settings: Settings | None = None, *, queue: Queue | None = None) -> FastAPI:
    """The gateway. `settings` default to the environment; `queue` to Celery on `settings.broker_url`."""
    settings = settings or Settings()
    configure_logging(settings.log_level)
    metrics = Metrics()
    app = FastAPI(
        title="Temper",
        version=VERSION,
        summary="Fine-tunes time series models on your own series and serves what measured better.",
        lifespan=lambda app: _lifespan(app, settings, queue),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,  # a JSON body without a content type is read as JSON
    )
    app.state.metrics = metrics
    errors.install(app)
    include_routers(app)
    app.add_middleware(
        BodyLimit,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        idle_seconds=settings.body_idle_seconds,
    )
    app.add_middleware(RequestContext, metrics=metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, queue: Queue | None) -> AsyncIterator[None]:
    engine = await anyio.to_thread.run_sync(_prepare, settings)
    services = Services(
        settings=settings,
        engine=engine,
        store=ObjectStore(settings.storage_url),
        queue=queue or CeleryQueue(settings.broker_url),
        keys=KeyCache(),
        measuring=Measuring(),
        parse_slots=CapacityLimiter(settings.max_concurrent_parses),
    )
    app.state.services = services
    app.state.readiness = Readiness()
    app.state.job_events = EventHub(engine)
    try:
        yield
    finally:
        await app.state.job_events.close()
        services.queue.close()
        engine.dispose()


def _prepare(settings: Settings) -> Engine:
    """Directories, schema and first key; several gateways may start on one database at once."""
    settings.make_directories()
    remove_leftovers(settings.tmp_dir)
    upgrade(settings.database_url)
    engine = make_engine(settings.database_url)
    bootstrap(engine, settings)
    return engine
