"""What the two tables of `tsfm.catalog` are made of. Torch-free."""

from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["forecast", "anomaly_detection", "imputation"]
TASKS: tuple[Task, ...] = ("forecast", "anomaly_detection", "imputation")
AUTO = "auto"
"""The method that chooses among the others; also a hyperparameter's "take the default"."""
RIVALS: tuple[str, ...] = ("naive", "seasonal_naive", "window_mean")
"""Plain forecasters every job is judged against; `model` names of `/forecast` and `/anomalies` too."""
FILL_RIVALS: tuple[str, ...] = ("linear_fill", "seasonal_fill")
"""Plain ways to fill a gap from both sides; `model` names of `/imputations` too."""
SEASONAL_RIVALS = ("seasonal_naive", "seasonal_fill")
"""The rivals that look at a period."""
Scoring = Literal["forecast", "every_patch", "reconstruction"]
SCORINGS: tuple[Scoring, ...] = ("forecast", "every_patch", "reconstruction")
"""What a point is held against to score it: a forecast from what came before it, by blocks; the same for every patch in
one pass, each from the true values before it; or the block hidden and reconstructed from both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """Everything about a pretrained network that can be said without loading it."""

    name: str
    family: str
    """Architecture, e.g. "tiny", "ttm"."""
    summary: str
    implementation: str
    """`module:Class` under `tsfm.backbones`; a dotted module is taken as it stands."""
    repo: str | None
    """Hub repository, or None for weights that ship in this package."""
    revision: str | None
    files: tuple[str, ...]
    sha256: str | None
    """Digest of the weights file: what is served is exactly what is named here. None where nobody of this project has
    held the published file: the first copy that loads strictly is pinned on this machine (`tsfm.backbones.places`)."""
    pickled: bool = False
    """Published as a pickle only: an offline converter makes the safetensors that are served."""
    licence: str
    non_commercial: bool = False
    num_parameters: int
    context_length: int
    """Longest context in steps; longer histories are cut to their end."""
    prediction_length: int
    """Longest horizon of one pass in steps."""
    max_prediction_length: int
    """Longest horizon by recursion; beyond it a request is refused."""
    patch_length: int
    tasks: tuple[Task, ...] = TASKS
    """All of them by default: forecasts alone are enough to score points and to fill gaps from both sides."""
    scorings: tuple[Scoring, ...] = ("forecast",)
    """How it can score points, the default first; with "reconstruction" it also fills gaps natively."""
    quantile_levels: tuple[float, ...]
    """Native quantiles; empty for point models."""
    handles_missing: bool
    replaceable_head: bool = False
    """The head is one linear over the flattened hidden state, which a small one can replace (`tsfm.heads`)."""
    quantile_head: bool = False
    """One linear to all quantiles of a short horizon can replace the head (`Backbone.put_quantile_head`)."""
    random_head: bool = False
    """Published without a forecasting head: tuning draws one for its horizon (`Backbone.fit_to`) and must train it."""
    continues_itself: bool = False
    """Beyond one pass `predict` follows paths of its own quantiles or the median of its samples, or has a head for the
    far steps, so that every horizon is one question; else the point of each pass joins the context, inside as outside.
    """
    past_covariates: bool = False
    future_covariates: bool = False
    methods: tuple[str, ...]
    unsupported_methods: dict[str, str] = field(default_factory=dict)
    """Method → why this backbone cannot do it; shown to whoever asks for the pair."""

    @property
    def reconstructs(self) -> bool:
        """Whether it answers for hidden points inside a window."""
        return "reconstruction" in self.scorings

    def tuned_length(self, prediction_length: int) -> int:
        """Steps of one pass of weights tuned for `prediction_length`: a head that tuning draws has them all."""
        return prediction_length if self.random_head else min(prediction_length, self.prediction_length)

    def block_length(self, tuned_for: int | None = None) -> int:
        """Steps that a network is asked for at once, as published or tuned for so many; beyond them its point joins the
        context."""
        if tuned_for is None:
            return self.max_prediction_length if self.continues_itself else self.prediction_length
        return tuned_for if self.continues_itself else self.tuned_length(tuned_for)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A way to turn a backbone and series into a fine-tuned model."""

    name: str
    summary: str
    implementation: str | None
    """`module:Class` under `tsfm.methods`; None of `auto`, which trains others (`tsfm.auto`)."""
    config: type[Any]
    """Frozen dataclass in `tsfm.configs`; its fields are the method's API options."""
    trains: bool = True
    learning_rate: dict[str, float] = field(default_factory=dict)
    """Default learning rate by backbone family; "*" for the rest."""
    auto: dict[str, tuple[Any, ...]] | None = None
    """Options that `auto` varies, the default first, each at every multiple of the learning rate; {} varies the rate
    alone, None keeps the method out of `auto`."""
