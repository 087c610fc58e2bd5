"""Rows of the registry as the API shows them."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.ids import unix_seconds
from app.registry.register import INCUMBENT
from app.registry.repository import PRODUCTION
from app.registry.schemas import AliasChange, ModelObject, VersionDetail, VersionObject
from app.tables import JobEvent, Model, ModelVersion
from tsfm import catalog
from tsfm.configs import PRETRAINED

GATE_SUMMARY = ("passed", "winner", "gain", "ci95", "windows", "verdict_number", "sentence")
BUILT_IN = "temper"
"""`owned_by` of backbones and rivals."""


def catalogue_models() -> list[ModelObject]:
    """Backbones, then rivals: what everybody may ask for."""
    backbones = [_built_in(spec.name, kind="backbone", tasks=list(spec.tasks)) for spec in catalog.BACKBONES.values()]
    forecasting = [_built_in(name, kind="rival", tasks=["forecast", "anomaly_detection"]) for name in catalog.RIVALS]
    return (
        backbones + forecasting + [_built_in(name, kind="rival", tasks=["imputation"]) for name in catalog.FILL_RIVALS]
    )


def _built_in(name: str, *, kind: str, tasks: list[str]) -> ModelObject:
    return ModelObject.model_validate(
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": BUILT_IN,
            "kind": kind,
            "backbone": name if kind == "backbone" else None,
            "tasks": tasks,
            "prediction_length": None,
            "latest_version": None,
            "aliases": {},
            "serves": None,
        }
    )


def tuned_model(model: Model, *, tenant: str, aliases: dict[str, int], versions: Iterable[ModelVersion]) -> ModelObject:
    """`versions` newest first."""
    every = list(versions)
    newest = next(version for version in every if not version.refit)
    production = aliases.get(PRODUCTION)
    meant = next((version for version in every if version.version == production), newest)
    return ModelObject(
        id=model.name,
        object="model",
        created=unix_seconds(model.created_at),
        owned_by=tenant,
        kind="fine_tuned",
        backbone=_backbone(model, meant),
        tasks=[model.task],
        prediction_length=model.prediction_length,
        latest_version=every[0].version,
        aliases=aliases,
        serves=_serves(newest, aliases),
    )


def _serves(newest: ModelVersion, aliases: dict[str, int]) -> str:
    if PRODUCTION in aliases:
        return f"version {aliases[PRODUCTION]}"
    if newest.fallback == INCUMBENT:
        return f"version {newest.incumbent}"
    return newest.fallback or f"version {newest.version}"


def _backbone(model: Model, version: ModelVersion) -> str:
    """Of a version: one name may hold versions of several backbones."""
    return str(version.manifest.get("backbone", {}).get("name", model.backbone))


def alias_change(event: JobEvent) -> AliasChange:
    data = event.data or {}
    return AliasChange(
        created_at=unix_seconds(event.created_at),
        alias=data["alias"],
        version=data["version"],
        previous=data["previous"],
        reason=data["reason"],
    )


def version_object(model: Model, version: ModelVersion, aliases: dict[str, int]) -> VersionObject:
    return VersionObject(
        id=version.id,
        object="model.version",
        created_at=unix_seconds(version.created_at),
        model=model.name,
        version=version.version,
        job_id=version.job_id,
        digest=version.digest,
        backbone=_backbone(model, version),
        initialisation=version.manifest.get("backbone", {}).get("initialisation", PRETRAINED),
        judged=version.judged,
        refit=version.refit,
        incumbent=version.incumbent,
        verdict=version.verdict,
        gate=gate_summary(version.gate),
        fallback=version.fallback,
        aliases=sorted(alias for alias, number in aliases.items() if number == version.version),
    )


def gate_summary(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The verdict in few words; its evidence stands in the job and in the manifest."""
    return None if gate is None else {name: gate[name] for name in GATE_SUMMARY if name in gate}


def version_detail(model: Model, version: ModelVersion, aliases: dict[str, int]) -> VersionDetail:
    shown = version_object(model, version, aliases)
    return VersionDetail(**shown.model_dump(), files=version.files, manifest=version.manifest)
