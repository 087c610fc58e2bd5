"""The catalogue as the API shows it."""

from typing import Any, Literal

from pydantic import Field

from app.schemas import ResponseModel


class MethodSupport(ResponseModel):
    name: str
    supported: bool
    reason: str | None = Field(description="Why not, where it is not.")


class Limits(ResponseModel):
    context_length: int = Field(description="Longest history looked at, in steps; longer ones are cut to their end.")
    prediction_length: int = Field(description="Longest horizon of one pass, in steps.")
    max_prediction_length: int = Field(description="Longest horizon by recursion; beyond it a request is refused.")
    patch_length: int


class BackboneObject(ResponseModel):
    id: str
    object: Literal["backbone"]
    family: str
    summary: str
    licence: str
    non_commercial: bool
    num_parameters: int
    digest: str | None = Field(
        description="sha256 of the weights file: what is served is exactly that. Null until a first copy is pinned."
    )
    repo: str | None
    revision: str | None
    pickled: bool = Field(description="Published as a pickle only; what is served are safetensors made of it.")
    weights_available: bool = Field(description="Whether the weights lie on this machine and may be used.")
    weights_command: str | None = Field(
        description="What puts the weights on this machine; null where they ship with the code."
    )
    tasks: list[str]
    scorings: list[str] = Field(
        description="How it can score points (anomaly_detection), the default first; with reconstruction it also fills "
        "gaps natively, else by forecasts from both sides."
    )
    limits: Limits
    quantile_levels: list[float] = Field(description="Native quantiles; empty for point models.")
    handles_missing: bool
    past_covariates: bool
    future_covariates: bool
    methods: list[MethodSupport]


class MethodObject(ResponseModel):
    id: str
    object: Literal["method"]
    summary: str
    trains: bool
    options: dict[str, Any] = Field(description="JSON schema of the method's options (`method` of a job).")


class RivalObject(ResponseModel):
    id: str
    object: Literal["rival"]
    summary: str


class BackboneList(ResponseModel):
    object: Literal["list"]
    data: list[BackboneObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    rivals: list[RivalObject]
    methods: list[MethodObject]
