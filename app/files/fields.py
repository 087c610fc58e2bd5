"""The parameters that travel beside an uploaded file, as form fields or in the query: text, possibly repeated."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from app.errors import ApiError
from app.ids import utc_now
from tsfm.series.options import ReadOptions

Fields = Mapping[str, Sequence[str]]

LIST_FIELDS = frozenset(
    {"timestamp_column", "target_columns", "past_covariate_columns", "future_covariate_columns", "static_columns"}
)
ROLE_FIELDS = LIST_FIELDS | {"id_column", "freq", "timezone", "timestamp_format", "duplicates"}
"""What `ReadOptions` takes; accepted wherever a file is."""
FILE_FIELDS = ROLE_FIELDS | {"filename", "purpose", "expires_after[anchor]", "expires_after[seconds]"}

DEFAULT_PURPOSE = "fine-tune"
MAX_EXPIRY_SECONDS = 30 * 24 * 3600
MIN_EXPIRY_SECONDS = 3600
PURPOSE_PATTERN = "^[A-Za-z0-9_.-]{1,64}$"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """What a caller says about a file."""

    filename: str
    purpose: str
    options: ReadOptions
    expires_at: datetime | None


def file_spec(fields: Fields, *, filename: str | None, known: frozenset[str] = FILE_FIELDS) -> FileSpec:
    """The spec in `fields`; 422 names a field that is not in `known`."""
    for name in fields:
        if name not in known:
            raise ApiError(
                422, "unknown_field", f"Unknown field {name!r}. Known: {', '.join(sorted(known))}.", param=name
            )
    purpose = single(fields, "purpose") or DEFAULT_PURPOSE
    if not re.match(PURPOSE_PATTERN, purpose):
        raise ApiError(422, "invalid_request", "purpose: up to 64 letters, digits, `_`, `.` or `-`.", param="purpose")
    return FileSpec(
        filename=display_name(single(fields, "filename") or filename),
        purpose=purpose,
        options=read_options(fields),
        expires_at=_expiry(fields),
    )


def read_options(fields: Fields) -> ReadOptions:
    """Column roles and spellings; `ConfigError` names what is wrong."""
    given: dict[str, Any] = {}
    for name in sorted(ROLE_FIELDS & fields.keys()):
        given[name] = _list(fields, name) if name in LIST_FIELDS else single(fields, name)
    return ReadOptions.from_mapping({name: value for name, value in given.items() if value})


def single(fields: Fields, name: str) -> str | None:
    """The one value of a field; an empty one counts as not given. 422 when it is given twice."""
    values = fields.get(name, ())
    if len(values) > 1:
        raise ApiError(422, "invalid_request", f"{name}: given {len(values)} times.", param=name)
    return values[0] if values and values[0] != "" else None


def _list(fields: Fields, name: str) -> list[str]:
    """Repeated values, one value with commas, or one JSON list (for names that hold a comma)."""
    values = fields[name]
    if len(values) > 1:
        return list(values)
    text = values[0].strip()
    if not text.startswith("["):
        return [part for part in text.split(",") if part]
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ApiError(422, "invalid_request", f"{name}: not a JSON list: {error}.", param=name) from error
    if not isinstance(parsed, list) or not all(isinstance(item, str) for item in parsed):
        raise ApiError(422, "invalid_request", f"{name}: a JSON list of column names is wanted.", param=name)
    return parsed


def display_name(name: str | None) -> str:
    """A name to show, never a path to open: the last component, printable, at most 255 characters."""
    last = _UNPRINTABLE.sub("", (name or "").replace("\\", "/").rpartition("/")[2]).strip()
    return last[:255] or "upload"


def _expiry(fields: Fields) -> datetime | None:
    """OpenAI's `expires_after`: seconds after creation."""
    anchor, text = single(fields, "expires_after[anchor]"), single(fields, "expires_after[seconds]")
    if anchor is None and text is None:
        return None
    if anchor not in (None, "created_at"):
        raise ApiError(422, "invalid_request", "expires_after.anchor: only `created_at`.", param="expires_after.anchor")
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ApiError(422, "invalid_request", "expires_after.seconds: an integer.", param="expires_after.seconds")
    seconds = int(text)
    if not MIN_EXPIRY_SECONDS <= seconds <= MAX_EXPIRY_SECONDS:
        message = f"expires_after.seconds: between {MIN_EXPIRY_SECONDS} and {MAX_EXPIRY_SECONDS}."
        raise ApiError(422, "invalid_request", message, param="expires_after.seconds")
    return utc_now() + timedelta(seconds=seconds)
