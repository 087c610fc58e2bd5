"""What the registry keeps in memory for a running application: the names' cache and the local artifact copies."""

from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI, Request

from app.registry.artifacts import LocalArtifacts
from app.registry.directory import Directory, find_target
from app.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    directory: Directory
    artifacts: LocalArtifacts


def registry_state(app: FastAPI) -> RegistryState:
    """The application's one registry state, made when first asked for (services must be up)."""
    state: RegistryState | None = getattr(app.state, "registry", None)
    if state is None:
        services: Services = app.state.services
        state = RegistryState(
            directory=Directory(partial(find_target, services.engine), weights_dir=services.settings.weights_path),
            artifacts=LocalArtifacts(
                services.store,
                services.settings.home / "cache" / "artifacts",
                budget_bytes=services.settings.artifact_cache_bytes,
            ),
        )
        app.state.registry = state
    return state


def get_registry(request: Request) -> RegistryState:
    return registry_state(request.app)
