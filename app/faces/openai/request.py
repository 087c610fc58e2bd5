"""A job as the `openai` client asks for it, in our words: `fine_tuning.jobs.create` → `JobCreate`.

Only names change. What we cannot do is refused, never dropped, and an error names the field that the caller wrote.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from app.errors import ApiError, as_api_error
from app.jobs import forms
from app.jobs.schemas import JobCreate
from tsfm import catalog
from tsfm.configs import TrainConfig
from tsfm.errors import ConfigError, TemperError

AUTO = "auto"
EPOCHS = "n_epochs"
MULTIPLIER = "learning_rate_multiplier"
MAX_MULTIPLIER = 1e6
SUPERVISED = "supervised"
"""OpenAI's plain method: here the default one."""
_OURS = {EPOCHS: "max_epochs", MULTIPLIER: "learning_rate"}
"""Hyperparameters of another name; both names of one are one setting."""
_NULLABLE = ("suffix", "seed", "metadata", "method", "hyperparameters", "validation_file", "integrations")
"""Where the client sends null for "not given". (`gate` and `budget` are ours: null means something there.)"""
_REFUSED_METHODS = {
    "dpo": "series hold no preferences to learn from",
    "reinforcement": "a forecast is judged by the values that follow, not by a grader",
}
_DEFAULT_METHOD = str(JobCreate.model_fields["method"].default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A job as the client asked for it."""

    spec: JobCreate
    places: Mapping[str, str]
    """Our name of a field → where the caller wrote it, of those that differ."""

    @contextmanager
    def in_its_words(self) -> Iterator[None]:
        """An error about a field that the caller named in another way says so."""
        try:
            yield
        except TemperError as error:
            place = self.places.get(error.param or "")
            if place is None:
                raise
            told = as_api_error(error)
            told.message = told.message.replace(_leaf(error.param or ""), _leaf(place))
            told.param = place
            raise told from error


def read_job(body: bytes) -> Asked:
    """A JSON body; errors as on the native route, and what a caller of OpenAI's cannot know in more words."""
    try:
        given = from_json(body)
    except ValueError as error:
        raise ApiError(400, "malformed_json", f"The body is not valid JSON: {error}.") from error
    if not isinstance(given, dict):
        return Asked(spec=forms.from_json(body), places={})  # which says what is wrong with it
    values = {name: value for name, value in given.items() if not (value is None and name in _NULLABLE)}
    _refuse_what_we_lack(values)
    places: dict[str, str] = {}
    method, inside, where = _method(values.pop("method", _DEFAULT_METHOD), places)
    hyperparameters = _together({"hyperparameters": values.pop("hyperparameters", {}), where: inside}, places)
    multiplier = hyperparameters.pop(MULTIPLIER, None)
    if values.get("prediction_length") is None:
        raise ApiError(
            422,
            "missing_field",
            "prediction_length is required: how many steps ahead to forecast. The openai client sends it by "
            'extra_body={"prediction_length": 24}.',
            param="prediction_length",
        )
    try:
        spec = JobCreate.model_validate({**values, "method": method, "hyperparameters": hyperparameters})
    except ValidationError as error:
        raise forms.as_request_error(error) from error
    if multiplier is not None:
        rate = _learning_rate(spec, multiplier, places["hyperparameters.learning_rate"])
        spec = spec.model_copy(update={"hyperparameters": {**hyperparameters, "learning_rate": rate}})
    return Asked(spec=spec, places=places)


def _refuse_what_we_lack(values: dict[str, Any]) -> None:
    """Takes OpenAI's own fields out of `values`."""
    if values.pop("validation_file", None) is not None:
        message = (
            "Temper cuts its validation block from the training file, by time, so that every job is judged alike: "
            "put all history into training_file and leave validation_file out."
        )
        raise ApiError(422, "unsupported_parameter", message, param="validation_file")
    if values.pop("integrations", None) not in (None, []):
        message = "There are no integrations here: leave them out, and read the job's events and result files."
        raise ApiError(422, "unsupported_parameter", message, param="integrations")


def _method(value: Any, places: dict[str, str]) -> tuple[Any, Any, str]:
    """Our `method`, the hyperparameters that stood in it, and where: `{type, <type>: {hyperparameters, …options}}`."""
    name = value.get("type") if isinstance(value, dict) else value
    where = f"method.{name}.hyperparameters"
    if not isinstance(name, str):
        return value, {}, where  # for the schema, or the catalogue, to refuse
    if name in _REFUSED_METHODS:
        known = ", ".join([SUPERVISED, *catalog.METHODS])
        message = f"There is no method {name!r} for time series: {_REFUSED_METHODS[name]}. Known: {known}."
        raise ApiError(422, "unsupported_method", message, param="method")
    ours = _DEFAULT_METHOD if name == SUPERVISED else name
    if not isinstance(value, dict):
        return ours, {}, where
    inner = _object(value.get(name), f"method.{name}")
    beside = {option: given for option, given in value.items() if option not in ("type", name)}
    inside = {option: given for option, given in inner.items() if option != "hyperparameters"}
    for option in inside:
        if option in beside:
            raise _twice(f"method.{name}.{option}")
        places[f"method.{option}"] = f"method.{name}.{option}"
    options = {**beside, **inside}
    return ({"type": ours, **options} if options else ours), inner.get("hyperparameters"), where


def _together(found: Mapping[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """The hyperparameters of all places in our names, but for the multiplier; "auto" is as good as not given."""
    values: dict[str, Any] = {}
    settled: set[str] = set()
    for where, given in found.items():
        for field, value in _object(given, where).items():
            if value == AUTO:
                continue
            ours = _OURS.get(field, field)
            if ours in settled:
                raise _twice(f"{where}.{field}")
            settled.add(ours)
            places[f"hyperparameters.{ours}"] = f"{where}.{field}"
            values[field if field == MULTIPLIER else ours] = value
    return values


def _object(value: Any, place: str) -> dict[str, Any]:
    """An object, or nothing, which is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(422, "invalid_request", f"{place}: an object is wanted.", param=place)
    return value


def _twice(place: str) -> ApiError:
    message = f"{place}: given twice, perhaps under another name or in another place. Give it once."
    return ApiError(422, "invalid_request", message, param=place)


def _learning_rate(spec: JobCreate, multiplier: Any, place: str) -> float:
    """`multiplier` times the default rate of the method on this backbone."""
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not 0 < multiplier < MAX_MULTIPLIER:
        raise ApiError(422, "invalid_request", f'{place}: a positive number or "auto" is wanted.', param=place)
    name = spec.method if isinstance(spec.method, str) else str(spec.method.get("type", ""))
    method, backbone = catalog.method(name), catalog.backbone(spec.model)
    if not method.learning_rate:
        why = "tries each method at rates of its own" if name == catalog.AUTO else "trains nothing"
        message = f"{name} {why}, so there is no learning rate to multiply: leave {MULTIPLIER} out."
        raise ApiError(422, "invalid_config", message, param=place)
    default = catalog.learning_rate(method, backbone)
    rate = float(f"{default * multiplier:.6g}")
    try:
        TrainConfig(learning_rate=rate)
    except ConfigError as error:
        product = f"{multiplier:g} times the default of {name} on {backbone.name} ({default:g}) is {rate:g}"
        raise ApiError(422, "invalid_config", f"{product}: {error.message}", param=place) from error
    return rate


def _leaf(place: str) -> str:
    return place.rpartition(".")[2]
