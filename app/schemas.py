"""Bases of the API's models. Requests refuse what they do not know; answers have no defaults (every field is there)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Columns = list[Name]


class RequestModel(BaseModel):
    """A request body: unknown fields are an error, `"5"` is no number and `false` is no 0."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ResponseModel(BaseModel):
    """An answer. Extra fields are dropped, never shown by accident."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Deleted(ResponseModel):
    id: str
    object: str
    deleted: bool
