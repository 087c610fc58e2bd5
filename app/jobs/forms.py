"""A job asked for by form: the same fields as the JSON, as text. Nested ones are JSON text, some may be a name."""

from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.errors import ApiError
from app.files.fields import FILE_FIELDS, ROLE_FIELDS, Fields, single
from app.jobs.schemas import JobCreate

_NUMBERS = frozenset({"prediction_length", "context_length", "seed"})
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_NESTED = frozenset({"hyperparameters", "budget", "gate", "landscape", "metadata"})
_NAMES = frozenset({"initialisation", "method"})
"""A name, or a nested object."""
JOB_FIELDS = frozenset(JobCreate.model_fields) - ROLE_FIELDS - {"training_file"}
KNOWN_FIELDS = JOB_FIELDS | FILE_FIELDS
"""Of a multipart job; column roles belong to the file."""


def from_json(body: bytes) -> JobCreate:
    """A JSON body; malformed JSON is 400, anything else wrong is 422 with every problem."""
    try:
        return JobCreate.model_validate_json(body)
    except ValidationError as error:
        raise as_request_error(error) from error


def from_form(fields: Fields) -> JobCreate:
    """The job's share of the form fields; `app.files.fields.file_spec` reads the rest."""
    values = {name: _value(name, text) for name in JOB_FIELDS if (text := single(fields, name)) is not None}
    try:
        return JobCreate.model_validate(values)
    except ValidationError as error:
        raise as_request_error(error) from error


def as_request_error(error: ValidationError) -> RequestValidationError:
    found = error.errors(include_url=False, include_input=False)
    if any(item["type"] == "json_invalid" for item in found):
        raise ApiError(400, "malformed_json", f"The body is not valid JSON: {found[0]['ctx']['error']}.")
    return RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in found])


def json_schema() -> dict[str, Any]:
    """Of the JSON body, with nested objects in place: this schema stands in a route, not among the components."""
    schema = JobCreate.model_json_schema()
    nested = schema.pop("$defs")

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return inline(nested[node["$ref"].rpartition("/")[2]]) | rest
        return {key: inline(value) for key, value in node.items()}

    found: dict[str, Any] = inline(schema)
    return found


def _value(name: str, text: str) -> Any:
    """Text in the type that the JSON field has; what cannot be is left for the schema to refuse by name."""
    if name in _NUMBERS:
        return int(text) if text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20 else text
    if name in {"dry_run", "refit", "accept_license"}:
        return _FLAGS.get(text.lower(), text)
    if name in _NESTED or (name in _NAMES and text.lstrip().startswith("{")):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ApiError(422, "invalid_request", f"{name}: not JSON: {error}.", param=name) from error
    return text
