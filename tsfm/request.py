"""What a fine-tuning run is asked to do, checked and with every default filled in. Torch-free.

`FinetuneRequest` is what was asked; `resolve` turns it, with what is known of the data, into the plain mapping that the
API echoes, the job row stores and `tsfm.finetune.run` executes. A resolved mapping is itself a valid request.
"""

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast, get_args, get_origin

from tsfm import catalog, configs, halving
from tsfm.errors import ConfigError, SeriesTooShort, UnknownName
from tsfm.metrics import METRICS
from tsfm.series import freq as frequencies
from tsfm.series import split
from tsfm.setting import Setting, check_block, check_scoring, context_limit, longest_block, scoring_for
from tsfm.spec import Scoring

MAX_BUDGET_SECONDS = 7 * 24 * 3600.0
MAX_SEED = 2**32 - 1
MAX_WHOLE = 2**53
"""Of any whole number: what a float still tells apart."""
AUTO = catalog.AUTO
_INTERNAL = ("seed", "checkpoint_every_seconds", "checkpoint_every_steps")
HYPERPARAMETERS: tuple[str, ...] = tuple(
    f.name for f in dataclasses.fields(configs.TrainConfig) if f.name not in _INTERNAL
)
"""Names a job may set; "auto" is accepted for each and means its default (for `learning_rate`: a search)."""
_ECHOED = ("freq",)
"""Fields that `resolve` adds for the reader; ignored when a resolved mapping is read back."""
_FLAGS = {f.name for f in dataclasses.fields(configs.TrainConfig) if f.type == "bool" or f.type is bool}
_INTEGERS = {f.name for f in dataclasses.fields(configs.TrainConfig) if f.type == "int" or f.type is int}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRequest:
    """One run, names checked against the catalogue, values checked for their range."""

    backbone: str
    method: str
    prediction_length: int
    method_config: dict[str, Any] = field(default_factory=dict)
    """Options of the method (`MethodSpec.config`); what is missing takes its default."""
    task: catalog.Task = "forecast"
    scoring: str | None = None
    """How points are scored (`spec.SCORINGS`), of anomaly detection alone; None: the backbone's own way."""
    context_length: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    """`HYPERPARAMETERS` → value or "auto"; `learning_rate` may also be a list to choose from on validation."""
    budget_seconds: float | None = None
    """Cap on training time; a run that meets it keeps its best weights and says so."""
    seed: int = 0
    landscape: bool | dict[str, Any] = False
    """Whether to measure the loss landscape; a mapping sets `configs.LandscapeConfig`."""
    with_test: bool = True
    """False gives up the test block: nothing is judged, every point before validation trains."""
    metric: str | None = None
    """What validation chooses by and the gate judges by (`metrics.METRICS`); None: MASE, or RMSSE for many zeros."""
    min_gain: float = 0.0
    """Share of error that the interval of the gain must clear; 0.02 asks for 2 % less than what served before."""
    initialisation: str | dict[str, Any] = configs.PRETRAINED
    """ "pretrained", "random", or the fields of `configs.RandomStart`."""
    refit: bool = False
    """Also trains the winning recipe on all history (tsfm.refit): a second artifact that nobody can judge."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Reads JSON types; `method` is a name or `{"type": name, **options}`. `ConfigError` names the field."""
        values = {k: v for k, v in mapping.items() if k not in _ECHOED}
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownName("field", str(name), known, param=str(name))
        for name in ("backbone", "method", "prediction_length"):
            if values.get(name) is None:
                raise ConfigError(f"{name} is required.", param=name, code="missing_field")
        method = values["method"]
        if isinstance(method, Mapping):
            options = dict(method)
            values["method"] = options.pop("type", "")
            values["method_config"] = {**options, **dict(values.get("method_config") or {})}
        request = cls(**{k: v for k, v in values.items() if v is not None})
        _check(request)
        return request

    def to_mapping(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def resolve(request: FinetuneRequest, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Every default filled in: the request as a mapping, plus `freq`.

    Of `reading` (tsfm.series.read) only `freq` and `max_length` are used. `learning_rate: "auto"` becomes the list of
    rates to try, `alpha: "search"` stays in `method_config` and means `configs.ALPHA_SEARCH`. Raises `ConfigError`,
    `UnknownName`, or `SeriesTooShort` when the longest series has no room for the blocks.
    """
    _check(request)
    spec = catalog.backbone(request.backbone)
    longest = int(reading["max_length"])
    scoring = _scoring(request, spec)
    context_length = request.context_length or split.fitting_context_length(
        longest,
        limit=context_limit(_setting(request, spec), spec),
        prediction_length=request.prediction_length,
        patch_length=spec.patch_length,
        with_test=request.with_test,
    )
    need = split.needed(
        context_length,
        request.prediction_length,
        patch_length=spec.patch_length,
        season=frequencies.parse(str(reading["freq"])).season,
        with_test=request.with_test,
    )
    if longest < need:
        without = need - 2 * request.prediction_length
        untested = request.with_test and longest >= without
        raise SeriesTooShort(
            f"The longest series has {longest} points, but prediction_length {request.prediction_length} needs {need}: "
            "use a shorter prediction_length, or give more history"
            + (f', or give up the test block by "gate": null, which needs {without}.' if untested else "."),
            have=longest,
            need=need,
            param="prediction_length",
        )
    method = catalog.method(request.method)
    landscape = landscape_config(request.landscape)
    start = random_start(request.initialisation)
    return {
        **request.to_mapping(),
        "initialisation": configs.PRETRAINED if start is None else dataclasses.asdict(start),
        "method_config": dataclasses.asdict(method_config(request.method, request.method_config)),
        "scoring": scoring,
        "context_length": context_length,
        "landscape": dataclasses.asdict(landscape) if landscape else False,
        "hyperparameters": _resolved_hyperparameters(request, spec, method),
        "freq": reading["freq"],
    }


def method_config(name: str, options: Mapping[str, Any]) -> Any:
    """The method's frozen config from JSON options; unknown names and wrong types are `ConfigError`."""
    config = catalog.method(name).config
    fields = {f.name: f for f in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    for key, value in options.items():
        param = f"method.{key}"
        if key not in fields:
            if not fields:
                raise ConfigError(f"Method {name!r} has no options, so {key!r} is unknown.", param=param)
            raise UnknownName("method option", key, list(fields), param=param)
        values[key] = _option(key, value, fields[key], param)
    try:
        return config(**values)
    except ConfigError as error:
        raise ConfigError(error.message, param=f"method.{error.param}") from error


def _option(key: str, value: Any, option: "dataclasses.Field[Any]", param: str) -> Any:
    """`value` in the type of the option's default; one of the listed texts where the option is a `Literal`."""
    default = option.default
    if get_origin(option.type) is Literal:
        choices = get_args(option.type)
        if value not in choices or isinstance(value, bool):
            raise ConfigError(
                f"{key} must be one of {', '.join(map(repr, choices))}, not {reprlib.repr(value)}.", param=param
            )
        return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, not {reprlib.repr(value)}.", param=param)
        return value
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v for v in value):
            raise ConfigError(f"{key} must be a list of names, not {reprlib.repr(value)}.", param=param)
        return tuple(value)
    if isinstance(default, int):
        return _integer(value, param, low=0, high=MAX_SEED)
    if isinstance(default, str):
        return _text(value, param)  # the config knows which names it takes
    assert isinstance(default, float), f"no rule reads an option like {key}"
    return value if isinstance(value, str) else _number(value, param)


def random_start(value: Any) -> configs.RandomStart | None:
    """What `initialisation` asks for: None is the published weights; `ConfigError` for anything that is neither."""
    if value == configs.PRETRAINED:
        return None
    given = {"type": value} if isinstance(value, str) else _mapping(value, "initialisation")
    if "type" not in given:
        raise ConfigError('An initialisation of its own says so: add "type": "random".', param="initialisation.type")
    fields = [f.name for f in dataclasses.fields(configs.RandomStart)]
    for key in given:
        if key not in fields:
            raise UnknownName("initialisation option", str(key), fields, param=f"initialisation.{key}")
    _integer(given.get("seed", 0), "initialisation.seed", low=0, high=MAX_SEED)
    try:
        return configs.RandomStart(**given)
    except ConfigError as error:
        raise ConfigError(error.message, param=f"initialisation.{error.param}") from error


def landscape_config(value: Any) -> configs.LandscapeConfig | None:
    """What `landscape` asks for: false is nothing, true the defaults, an object the fields of `LandscapeConfig`."""
    if isinstance(value, bool):
        return configs.LandscapeConfig() if value else None
    if not isinstance(value, Mapping):
        raise ConfigError(f"landscape must be true, false or an object, not {reprlib.repr(value)}.", param="landscape")
    fields = [f.name for f in dataclasses.fields(configs.LandscapeConfig)]
    for key, given in value.items():
        param = f"landscape.{key}"
        if key not in fields:
            raise UnknownName("landscape option", str(key), fields, param=param)
        if key == "surface" and not isinstance(given, bool):
            raise ConfigError(f"surface must be true or false, not {given!r}.", param=param)
        if key == "probes" or (key == "windows" and given is not None):
            _integer(given, param)
    try:
        return configs.LandscapeConfig(**value)
    except ConfigError as error:
        raise ConfigError(error.message, param=f"landscape.{error.param}") from error


def train_config(resolved: Mapping[str, Any], *, learning_rate: float) -> configs.TrainConfig:
    """The loop's settings from a resolved mapping, with the learning rate of this trial."""
    values = {**resolved["hyperparameters"], "learning_rate": learning_rate}
    return configs.TrainConfig(**values, seed=int(resolved["seed"]))


def _check(request: FinetuneRequest) -> None:
    spec = catalog.backbone(_text(request.backbone, "model"))
    catalog.method(_text(request.method, "method"))
    if request.method not in spec.methods:
        why = spec.unsupported_methods.get(request.method, f"it supports: {', '.join(spec.methods)}")
        raise ConfigError(
            f"{spec.name} cannot be tuned with {request.method!r}: {why}.", param="method", code="unsupported_method"
        )
    if request.task not in catalog.TASKS:
        raise UnknownName("task", str(request.task), catalog.TASKS, param="task")
    if request.task not in spec.tasks:
        raise ConfigError(
            f"{spec.name} does not do {request.task!r}; it does: {', '.join(spec.tasks)}.",
            param="task",
            code="unsupported_task",
        )
    check_scoring(request.scoring, request.task, spec)
    setting = _setting(request, spec)
    _integer(request.prediction_length, "prediction_length", low=1, high=longest_block(setting, spec), of=spec.name)
    check_block(setting, spec)
    if request.context_length is not None:
        most = context_limit(setting, spec)
        _integer(request.context_length, "context_length", low=spec.patch_length, high=most, of=spec.name)
    _integer(request.seed, "seed", low=0, high=MAX_SEED)
    if not isinstance(request.with_test, bool):
        raise ConfigError(f"with_test must be true or false, not {request.with_test!r}.", param="with_test")
    if not isinstance(request.refit, bool):
        raise ConfigError(f"refit must be true or false, not {request.refit!r}.", param="refit")
    if request.refit and not catalog.method(request.method).trains:
        raise ConfigError(f"{request.method} trains nothing, so there is nothing to refit.", param="refit")
    if request.metric is not None and request.metric not in METRICS:
        raise UnknownName("metric", str(request.metric), METRICS, param="gate.metric")
    if not 0 <= _number(request.min_gain, "gate.min_gain") < 1:
        raise ConfigError(f"gate.min_gain must lie in [0, 1), not {request.min_gain!r}.", param="gate.min_gain")
    if landscape_config(request.landscape) is not None and not catalog.method(request.method).trains:
        raise ConfigError(
            f"{request.method} trains nothing, so there is no way from pretrained to tuned weights to measure.",
            param="landscape",
        )
    _check_start(request)
    if setting.is_two_sided and landscape_config(request.landscape) is not None:
        raise ConfigError(
            "A landscape is measured on forecasts, and this job fills gaps: leave landscape out.", param="landscape"
        )
    if request.budget_seconds is not None:
        seconds = _number(request.budget_seconds, "budget.seconds")
        if not 0 < seconds <= MAX_BUDGET_SECONDS:
            raise ConfigError(
                f"budget.seconds must lie above 0 and at most {MAX_BUDGET_SECONDS:.0f}.", param="budget.seconds"
            )
    options = _mapping(request.method_config, "method")
    config = method_config(request.method, options)
    _check_head(config, spec, setting)
    if isinstance(config, configs.AutoConfig):
        _check_auto(config, spec)
    asked = _mapping(request.hyperparameters, "hyperparameters")
    if asked and not catalog.method(request.method).trains:
        raise ConfigError(f"{request.method} trains nothing, so it has no hyperparameters.", param="hyperparameters")
    _check_hyperparameters(asked)
    warmup = asked.get("warmup_fraction", AUTO)
    warmup = configs.TrainConfig().warmup_fraction if warmup == AUTO else warmup
    if isinstance(config, configs.TraceConfig):
        _check_trace(config, spec, warmup)
        if config.head not in ("auto", "keep", "lora") and setting.reconstructs(spec):
            raise ConfigError(
                f"{spec.name} reconstructs with its pretrained head, which {config.head!r} would replace: leave head "
                'out, or give "keep" or "lora".',
                param="method.head",
                code="unsupported_method",
            )
        if config.head == configs.QUANTILES and landscape_config(request.landscape) is not None:
            raise ConfigError(
                "A landscape lies over one set of parameters, and this head has others than the pretrained network: "
                "leave landscape out, or take another head.",
                param="landscape",
            )
    elif isinstance(config, configs.AutoConfig) and "trace" in (config.methods or _choices(spec)):
        _check_trace_in_auto(warmup)


def _check_start(request: FinetuneRequest) -> None:
    """That nothing is asked of random weights that only pretrained ones can give."""
    if random_start(request.initialisation) is None:
        return
    if not catalog.method(request.method).trains:
        raise ConfigError(
            f"{request.method} trains nothing, and random weights forecast nothing.", param="initialisation"
        )
    if landscape_config(request.landscape) is not None:
        raise ConfigError("A landscape starts at pretrained weights; this job has none.", param="landscape")


def _scoring(request: FinetuneRequest, spec: catalog.BackboneSpec) -> Scoring | None:
    if request.task != "anomaly_detection":
        return None
    return cast("Scoring | None", request.scoring) or scoring_for(spec, request.prediction_length)


def _setting(request: FinetuneRequest, spec: catalog.BackboneSpec) -> Setting:
    return Setting(
        task=request.task,
        scoring=_scoring(request, spec),
        prediction_length=request.prediction_length,
        context_length=request.context_length or 0,
    )


def _check_head(config: Any, spec: catalog.BackboneSpec, setting: Setting) -> None:
    """That no adapter method is asked to keep a head that no checkpoint holds."""
    adapters = configs.LoRAConfig | configs.AdaLoRAConfig | configs.TraceConfig
    if not setting.draws_head(spec) or not isinstance(config, adapters):
        return
    if config.head.startswith(("keep", "lora", "svd")):
        takes = "H1, H1b, H2, H3 or H4" if isinstance(config, configs.TraceConfig) else '"train"'
        raise ConfigError(
            f"{spec.name} is published without a forecasting head, so there is none for {config.head!r}: leave head "
            f"out, or give {takes}.",
            param="method.head",
            code="unsupported_method",
        )


def _check_trace(config: configs.TraceConfig, spec: catalog.BackboneSpec, warmup: float) -> None:
    """That the backbone has a head of the kind asked for, and that nothing is masked while the rate still rises."""
    if config.head == configs.QUANTILES:
        _check_quantile_head(spec)
    elif config.head not in ("auto", "keep", "lora") and not spec.replaceable_head:
        raise ConfigError(
            f"The head of {spec.name} is not one linear over its hidden state, so {config.head!r} cannot replace it: "
            'it supports "lora" and "keep".',
            param="method.head",
            code="unsupported_method",
        )
    if config.keep_ratio < 1 and config.first_round <= warmup:
        raise ConfigError(
            f"first_round must come after the warm-up, which takes {warmup:g} of the steps: give more than that.",
            param="method.first_round",
        )


def _check_quantile_head(spec: catalog.BackboneSpec) -> None:
    if not spec.quantile_head:
        known = ", ".join(other.name for other in catalog.BACKBONES.values() if other.quantile_head)
        raise ConfigError(
            f"{spec.name} has no head that {configs.QUANTILES!r} replaces: it is for backbones that sample ({known}).",
            param="method.head",
            code="unsupported_method",
        )


def _check_trace_in_auto(warmup: float) -> None:
    """The same of `auto`, which tries TRACE with its defaults."""
    first = configs.TraceConfig().first_round
    if first <= warmup:
        raise ConfigError(
            f"trace selects modules after {first:g} of the steps, which must come after the warm-up: give a "
            "warmup_fraction below that, or methods without trace.",
            param="hyperparameters.warmup_fraction",
        )


def _check_auto(config: configs.AutoConfig, spec: catalog.BackboneSpec) -> None:
    """That every listed method is one `auto` may choose on this backbone."""
    known = _choices(spec)
    for name in config.methods:
        catalog.method(name)
        if name not in known:
            raise ConfigError(
                f"auto cannot choose {name!r} on {spec.name}; it can choose: {', '.join(known)}.",
                param="method.methods",
                code="unsupported_method",
            )


def _choices(spec: catalog.BackboneSpec) -> list[str]:
    """The methods `auto` may choose from."""
    return [method.name for method in halving.eligible(spec)]


def _check_hyperparameters(values: Mapping[str, Any]) -> None:
    plain: dict[str, Any] = {}
    for name, value in values.items():
        param = f"hyperparameters.{name}"
        if name not in HYPERPARAMETERS:
            raise UnknownName("hyperparameter", str(name), HYPERPARAMETERS, param=param)
        if value == AUTO:
            continue
        if name == "learning_rate" and isinstance(value, list | tuple):
            if not 1 <= len(value) <= 8:
                raise ConfigError("learning_rate lists one to eight rates to choose from.", param=param)
            for rate in value:
                _train_value("learning_rate", _number(rate, param))
            continue
        plain[name] = value
    for name, value in plain.items():
        param = f"hyperparameters.{name}"
        if name in _FLAGS:
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be true or false, not {reprlib.repr(value)}.", param=param)
        else:
            _train_value(name, _integer(value, param) if name in _INTEGERS else _number(value, param))


def _train_value(name: str, value: float) -> None:
    """Range check by the config itself, so that the limits stand in one place."""
    try:
        configs.TrainConfig(**cast("dict[str, Any]", {name: value}))
    except ConfigError as error:
        raise ConfigError(error.message, param=f"hyperparameters.{name}") from error


def _resolved_hyperparameters(
    request: FinetuneRequest, spec: catalog.BackboneSpec, method: catalog.MethodSpec
) -> dict[str, Any]:
    """All of `HYPERPARAMETERS`; empty for a method that trains nothing."""
    if not method.trains:
        return {}
    asked = {k: v for k, v in request.hyperparameters.items() if v != AUTO}
    defaults = {f.name: f.default for f in dataclasses.fields(configs.TrainConfig) if f.name in HYPERPARAMETERS}
    resolved = {**defaults, **asked}
    if "learning_rate" not in asked and method.name == catalog.AUTO:
        resolved["learning_rate"] = AUTO  # each method's own default, and its multiples
    elif "learning_rate" not in asked:
        default = catalog.learning_rate(method, spec)
        resolved["learning_rate"] = [float(f"{default * k:.3g}") for k in configs.LEARNING_RATE_SEARCH]
    elif isinstance(asked["learning_rate"], list | tuple):
        rates = [float(rate) for rate in asked["learning_rate"]]
        resolved["learning_rate"] = rates if len(rates) > 1 else rates[0]
    else:
        resolved["learning_rate"] = float(asked["learning_rate"])
    return resolved


def _mapping(value: Any, param: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{param} must be an object, not {reprlib.repr(value)}.", param=param)
    return value


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{param} must be a name, not {reprlib.repr(value)}.", param=param)
    return value


def _number(value: Any, param: str) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        value = _integer(value, param)
    elif not isinstance(value, float) or not math.isfinite(value):
        raise ConfigError(f"{param} must be a finite number, not {reprlib.repr(value)}.", param=param)
    return float(value)


def _integer(value: Any, param: str, *, low: int | None = None, high: int | None = None, of: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{param} must be a whole number, not {reprlib.repr(value)}.", param=param)
    if (low is not None and value < low) or (high is not None and value > high):
        whose = f" for {of}" if of else ""
        raise ConfigError(f"{param} must be between {low} and {high}{whose}, not {reprlib.repr(value)}.", param=param)
    if abs(value) > MAX_WHOLE:
        raise ConfigError(f"{param} must be at most {MAX_WHOLE:,}, not {reprlib.repr(value)}.", param=param)
    return value
