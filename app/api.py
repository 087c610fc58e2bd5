"""Every route of the service. To add a router: one line in `_NATIVE` (module path, attribute).

Native routers, and the openai face whose paths lie under `/v1` like theirs, are mounted under `/v1` and once more
without a prefix, there out of the OpenAPI schema. Faces with paths of their own are out of it: their contract is
somebody else's client.
"""

from importlib import import_module

from fastapi import APIRouter, FastAPI

from app.health import router as health_router

_NATIVE: tuple[str, ...] = (
    "app.forecasts.endpoints",  # first: routes are matched in order, and this one is asked most
    "app.files.endpoints",
    "app.jobs.endpoints",
    "app.auth.endpoints",
    "app.usage",
    "app.registry.endpoints",
    "app.backbones.endpoints",
    "app.backtests.endpoints",
    "app.anomalies.endpoints",
    "app.imputations.endpoints",
    "app.uploads.endpoints",
    "app.faces.openai.jobs",
)
_FACES: tuple[str, ...] = ("app.faces.nixtla.endpoints",)


def include_routers(app: FastAPI) -> None:
    app.include_router(health_router)
    for module in _NATIVE:
        router: APIRouter = import_module(module).router
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    for module in _FACES:
        for router in import_module(module).routers():
            app.include_router(router, include_in_schema=False)
