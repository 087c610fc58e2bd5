"""What an application holds while it runs: made by the lifespan, kept on `app.state.services`."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request
from sqlalchemy import Engine

from app.auth.cache import KeyCache
from app.jobs.measurements import Measuring
from app.queue import Queue
from app.settings import Settings
from app.storage import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: Settings
    engine: Engine
    store: Store
    queue: Queue
    keys: KeyCache
    measuring: Measuring
    parse_slots: CapacityLimiter
    """Bounds the uploads that are parsed and stored at once; waiting for a slot takes no thread."""


def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return get_services(request)


ServicesDep = Annotated[Services, Depends(_services)]
