"""Shows the two tables of `tsfm.catalog`; nothing is stored, so a new backbone or method appears by itself."""

import ast
import dataclasses
import inspect
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.backbones.schemas import BackboneList, BackboneObject, Limits, MethodObject, MethodSupport, RivalObject
from app.errors import ApiError, NotFound
from app.settings import Settings
from tsfm import catalog
from tsfm.backbones import places
from tsfm.backbones.places import find_weights
from tsfm.errors import WeightsError

_RIVALS = {
    "naive": "The last observed value.",
    "seasonal_naive": "The value one season earlier.",
    "window_mean": "The mean of the context.",
    "linear_fill": "The line between the values on both sides of a gap.",
    "seasonal_fill": "The mean of the nearest values of the same phase on both sides of a gap.",
}


def list_backbones(weights_dir: Path) -> BackboneList:
    data = [show(spec, weights_dir) for spec in catalog.BACKBONES.values()]
    return BackboneList(
        object="list",
        data=data,
        has_more=False,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        rivals=[RivalObject(id=name, object="rival", summary=summary) for name, summary in _RIVALS.items()],
        methods=[method_object(spec) for spec in catalog.METHODS.values()],
    )


def get_backbone(name: str, weights_dir: Path) -> BackboneObject:
    if name not in catalog.BACKBONES:
        raise NotFound("backbone", name, param="name", known=tuple(catalog.BACKBONES))
    return show(catalog.BACKBONES[name], weights_dir)


def digest_here(spec: catalog.BackboneSpec, weights_dir: Path) -> str | None:
    """Of the weights on this machine; None where they are absent or not to be used."""
    try:
        return find_weights(spec, weights_dir=weights_dir).digest
    except WeightsError:
        return None


def require_weights(spec: catalog.BackboneSpec, settings: Settings, *, accept_license: bool, param: str) -> None:
    """What a job needs of its backbone: weights that are here, or that its worker may fetch, and consent to a licence
    that forbids commercial use. Raises 422 `license_not_accepted`, or the `WeightsError` that says how to get them."""
    if spec.non_commercial and not accept_license:
        raise ApiError(
            422,
            "license_not_accepted",
            f"The weights of {spec.name} are licensed {spec.licence}: not for commercial use. Say that you accept this "
            "with accept_license: true.",
            param="accept_license",
            details={"licence": spec.licence},
        )
    try:
        find_weights(spec, weights_dir=settings.weights_path)
    except WeightsError as error:
        if settings.pull_weights and error.code == "weights_unavailable" and places.may_be_pulled(spec):
            return
        error.param = param
        raise


def show(spec: catalog.BackboneSpec, weights_dir: Path) -> BackboneObject:
    here = digest_here(spec, weights_dir)
    known = None if spec.sha256 is None else f"sha256:{spec.sha256}"
    return BackboneObject(
        id=spec.name,
        object="backbone",
        family=spec.family,
        summary=spec.summary,
        licence=spec.licence,
        non_commercial=spec.non_commercial,
        num_parameters=spec.num_parameters,
        digest=here or known,
        repo=spec.repo,
        revision=spec.revision,
        pickled=spec.pickled,
        weights_available=here is not None,
        weights_command=places.command(spec),
        tasks=list(spec.tasks),
        scorings=list(spec.scorings),
        limits=Limits(
            context_length=spec.context_length,
            prediction_length=spec.prediction_length,
            max_prediction_length=spec.max_prediction_length,
            patch_length=spec.patch_length,
        ),
        quantile_levels=list(spec.quantile_levels),
        handles_missing=spec.handles_missing,
        past_covariates=spec.past_covariates,
        future_covariates=spec.future_covariates,
        methods=[_support(spec, name) for name in catalog.METHODS],
    )


def _support(spec: catalog.BackboneSpec, method: str) -> MethodSupport:
    if method in spec.methods:
        return MethodSupport(name=method, supported=True, reason=None)
    reason = spec.unsupported_methods.get(method, "Not offered for this backbone.")
    return MethodSupport(name=method, supported=False, reason=reason)


@cache
def _options(method: str) -> dict[str, Any]:
    """JSON schema of the method's config, each field with the text that stands under it in the source."""
    config = catalog.method(method).config
    schema = TypeAdapter(config).json_schema()
    texts = _field_texts(config)
    for name, field in schema.get("properties", {}).items():
        if name in texts:
            field["description"] = texts[name]
    return {**schema, "additionalProperties": False}


def _field_texts(config: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    assert isinstance(body, ast.ClassDef)
    names = {field.name for field in dataclasses.fields(config)}
    texts: dict[str, str] = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        match before, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                if name in names:
                    texts[name] = inspect.cleandoc(text)
    return texts


def method_object(spec: catalog.MethodSpec) -> MethodObject:
    return MethodObject(
        id=spec.name,
        object="method",
        summary=spec.summary,
        trains=spec.trains,
        options=_options(spec.name),
    )
