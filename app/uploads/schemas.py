"""Uploads in parts as the API takes and shows them: OpenAI's Upload and UploadPart, and column roles."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from app.files.fields import DEFAULT_PURPOSE, MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS, PURPOSE_PATTERN
from app.files.schemas import FileObject
from app.schemas import Columns, Name, RequestModel, ResponseModel

MAX_PARTS = 10_000


class ExpiresAfter(RequestModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS)


class UploadCreate(RequestModel):
    """A file that will arrive in parts."""

    bytes: int = Field(ge=1, description="Of the whole file.")
    filename: Name
    mime_type: Name | None = Field(default=None, description="Shown again; the content says what the file is.")
    purpose: Annotated[str, StringConstraints(pattern=PURPOSE_PATTERN)] = DEFAULT_PURPOSE
    expires_after: ExpiresAfter | None = Field(default=None, description="When the file goes, from its creation on.")

    id_column: Name | None = None
    timestamp_column: Name | Columns | None = None
    target_columns: Columns | None = None
    past_covariate_columns: Columns | None = None
    future_covariate_columns: Columns | None = None
    static_columns: Columns | None = None
    freq: Name | None = None
    timezone: Name | None = None
    timestamp_format: Name | None = None
    duplicates: Name | None = None


class UploadComplete(RequestModel):
    part_ids: list[Name] = Field(min_length=1, max_length=MAX_PARTS, description="In the order of the file.")
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}$")] | None = Field(
        default=None, description="Of the whole file, in hexadecimal digits."
    )


class UploadObject(ResponseModel):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    mime_type: str | None
    options: dict[str, Any]
    """Column roles as given."""
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None
    """Once completed, and until it is deleted."""


class PartObject(ResponseModel):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str
    bytes: int
