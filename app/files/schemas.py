"""Files as the API shows them: OpenAI's FileObject, and what was understood."""

from typing import Any, Literal

from app.schemas import ResponseModel


class BackboneFit(ResponseModel):
    model: str
    fits: bool
    max_prediction_length: int
    """Longest horizon a job on this file can have; 0 when none."""
    have: int
    """Points of the longest series."""
    need: int
    """Points it must have for a horizon of one step."""
    reason: str | None


class NextRequest(ResponseModel):
    method: str
    path: str
    body: dict[str, Any]


class NextRequests(ResponseModel):
    job: NextRequest | None
    forecast: NextRequest


class FileError(ResponseModel):
    code: str
    message: str
    param: str | None
    details: dict[str, Any]


class FileObject(ResponseModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processing", "processed", "error"]
    status_details: str | None
    sha256: str
    options: dict[str, Any]
    """Roles and spellings as given; what was inferred stands in `reading`."""
    reading: dict[str, Any] | None
    """What was understood; null until the file is processed."""
    error: FileError | None
    backbones: list[BackboneFit] | None
    next: NextRequests | None
    """Request bodies that work as they stand."""


class DeletedFile(ResponseModel):
    id: str
    object: Literal["file"]
    deleted: bool
