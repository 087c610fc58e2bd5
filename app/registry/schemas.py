"""What the registry's routes take and answer."""

from typing import Any, Literal

from pydantic import Field

from app.schemas import RequestModel, ResponseModel


class AliasMove(RequestModel):
    version: int = Field(ge=1, le=2**31 - 1, description="The version the alias shall point at.")


class ModelObject(ResponseModel):
    """OpenAI's model object, and what this service knows beyond it."""

    id: str = Field(description="The name to ask for: `model` of a forecast.")
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["fine_tuned", "backbone", "rival"]
    backbone: str | None
    tasks: list[str]
    prediction_length: int | None = Field(description="Tuned horizon; null for backbones and rivals.")
    latest_version: int | None
    aliases: dict[str, int] = Field(description="Alias → version; `production` is what a bare name serves.")
    serves: str | None = Field(
        description="What a bare name is answered by: `version 3`, or the fallback that was not beaten."
    )


class AliasChange(ResponseModel):
    created_at: int
    alias: str
    version: int | None
    previous: int | None
    reason: str


class ModelDetail(ModelObject):
    history: list[AliasChange] = Field(description="Moves of aliases, newest first, at most 100.")


class VersionObject(ResponseModel):
    id: str = Field(description="Short id; may be asked for like a name.")
    object: Literal["model.version"]
    created_at: int
    model: str
    version: int
    job_id: str
    digest: str
    backbone: str = Field(description="Versions of one name may stem from different backbones.")
    initialisation: str | dict[str, Any] = Field(
        description='What its job started from: "pretrained", or how random weights were drawn.'
    )
    judged: bool = Field(description="Whether a test block was read for a verdict; never of a refit.")
    refit: bool = Field(description="The recipe of its job trained on all history; no alias points here by itself.")
    incumbent: int | None = Field(description="The version in production when this one was judged.")
    verdict: dict[str, Any] | None
    gate: dict[str, Any] | None = Field(description="Whether the gate was passed, and by how much.")
    fallback: str | None = Field(description="What answers for this version because it was not beaten.")
    aliases: list[str]


class VersionDetail(VersionObject):
    files: dict[str, str] = Field(description="Path in the artifact → sha256.")
    manifest: dict[str, Any]
