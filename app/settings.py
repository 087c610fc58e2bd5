"""Every setting of the service, read once from `TEMPER_*` variables. Sizes are in bytes, times in seconds.

`docs/operations.md` explains each one; a test fails when a setting is missing there.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.broker import socket_path
from tsfm import catalog

MIB = 1 << 20
GIB = 1 << 30
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


def _names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


def _known(name: str) -> str:
    if name not in catalog.BACKBONES:
        raise ValueError(f"{name!r} is no backbone; known: {', '.join(catalog.BACKBONES)}")
    return name


Backbones = Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], NoDecode, BeforeValidator(_names)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TEMPER_", frozen=True, extra="ignore")

    home: Path = Path(".temper")
    """All state of the embedded default; made when absent."""
    database_url: str = ""
    broker_url: str = ""
    storage_url: str = ""
    weights_dir: Path | None = None
    pull_weights: bool = False
    api_key: Annotated[SecretStr, Field(min_length=16)] | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    log_level: str = "info"

    max_upload_bytes: Positive = 2 * GIB
    inline_parse_bytes: Positive = 64 * MIB
    max_body_bytes: Positive = 32 * MIB
    body_idle_seconds: Seconds = 60.0
    max_decompressed_bytes: Positive = 8 * GIB
    max_rows: Positive = 50_000_000
    max_series: Positive = 100_000
    max_columns: Positive = 2_000
    max_prediction_length: Positive = 1_024
    max_queued_jobs: Positive = 100
    max_concurrent_jobs: Positive = 4
    max_keys: Positive = 1_000

    parse_seconds: Seconds = 120.0
    parse_background_seconds: Seconds = 1_800.0
    parse_memory_bytes: Positive = 4 * GIB
    max_concurrent_parses: Positive = 2
    idempotency_release_seconds: Seconds = 300.0
    idempotency_keep_seconds: Seconds = 86_400.0

    forecast_threads: Annotated[int, Field(ge=0)] = 0
    preload: Backbones = ()
    forecaster_memory_bytes: Positive = 2 * GIB
    artifact_cache_bytes: Positive = 8 * GIB
    max_pending_series: Positive = 4_096
    max_forecast_series: Positive = 20_000
    max_scored_points: Positive = 2_000_000

    lease_seconds: Seconds = 30.0
    heartbeat_seconds: Seconds = 5.0
    sweep_seconds: Seconds = 5.0
    max_attempts: Positive = 3
    max_run_seconds: Seconds = 86_400.0
    stall_seconds: Seconds = 1_800.0
    checkpoint_seconds: Seconds = 60.0
    measure_seconds: Seconds = 10.0
    resend_seconds: Seconds = 30.0
    stop_grace_seconds: Seconds = 15.0

    @model_validator(mode="after")
    def _derive(self) -> Self:
        """Fills what follows from `home`, so that every reader finds complete values."""
        home = self.home.expanduser().resolve()
        derived = {
            "home": home,
            "database_url": self.database_url or f"sqlite:///{home / 'temper.db'}",
            "broker_url": self.broker_url or f"redis+socket://{socket_path(home)}",
            "storage_url": self.storage_url or (home / "storage").as_uri(),
            "weights_dir": (self.weights_dir or home / "weights").expanduser().resolve(),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # the model is frozen for everybody else
        return self

    @property
    def tmp_dir(self) -> Path:
        """Uploads under way and work files; emptied of what a crash left at start."""
        return self.home / "tmp"

    @property
    def weights_path(self) -> Path:
        assert self.weights_dir is not None, "filled by the validator"
        return self.weights_dir

    def make_directories(self) -> None:
        for path in (self.home, self.tmp_dir, self.weights_path):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
