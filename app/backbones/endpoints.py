"""`/v1/backbones`: what can be fine-tuned or asked zero-shot, by which methods, within which limits."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.auth.dependencies import PrincipalDep
from app.backbones import service
from app.backbones.schemas import BackboneList, BackboneObject
from app.errors import responses
from app.registry.names import MAX_NAME_CHARS
from app.services import ServicesDep

router = APIRouter(prefix="/backbones", tags=["backbones"])


@router.get("", responses=responses(), summary="Backbones, rivals and methods")
def list_backbones(_: PrincipalDep, services: ServicesDep) -> BackboneList:
    return service.list_backbones(services.settings.weights_path)


@router.get("/{name:path}", responses=responses(404), summary="One backbone")
def get_backbone(
    name: Annotated[str, Path(min_length=1, max_length=MAX_NAME_CHARS)], _: PrincipalDep, services: ServicesDep
) -> BackboneObject:
    return service.get_backbone(name, services.settings.weights_path)
