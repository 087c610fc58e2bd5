"""The one protocol every backbone implements, and the tensors that cross it.

Shapes: B windows (one window of one series each), T context steps, H target steps, Q quantile levels.
A backbone sees *windows that are already shifted and scaled to order one* (`tsfm.series.windows`); it
still does whatever normalisation its publication prescribes. NaN always means "missing", never zero.
Nothing here is batch-coupled: row i of an answer depends on row i of the input alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.errors import ConfigError
from tsfm.rivals import completed
from tsfm.series.windows import WindowBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One training batch: `context` [B, T] and `target` [B, H], float32, NaN = missing (or left padding).

    With `after` [B, A] the target fills a gap: of row i the first `gap[i]` of H steps are hidden (NaN stands behind
    them), and `after[i]` follows the gap at once.
    """

    context: Tensor
    target: Tensor
    after: Tensor | None = None
    gap: Tensor | None = None
    """[B] int64, 1 to H; given where `after` is."""

    @classmethod
    def of(cls, cut: WindowBatch, device: torch.device) -> Self:
        """Windows as tensors on `device`; with a period, a first guess stands for what is missing around their gaps."""
        context, after = cut.context, cut.after
        if after is not None and cut.gap is not None and cut.period is not None:
            context, after = completed(context, after, cut.gap, cut.target.shape[1], period=cut.period)
        tensors = (None if x is None else torch.from_numpy(x).to(device) for x in (after, cut.gap))
        behind, gap = tensors
        before, target = torch.from_numpy(context).to(device), torch.from_numpy(cut.target).to(device)
        return cls(context=before, target=target, after=behind, gap=gap)

    def rows(self, chosen: Tensor | slice) -> "Batch":
        """Only the rows that `chosen` names."""
        if self.after is None or self.gap is None:
            return Batch(context=self.context[chosen], target=self.target[chosen])
        return Batch(
            context=self.context[chosen], target=self.target[chosen], after=self.after[chosen], gap=self.gap[chosen]
        )

    @property
    def seen(self) -> Tensor:
        """What the network is shown: `context`, or [B, T + H + A] with the gap as NaN."""
        if self.after is None or self.gap is None:
            return self.context
        return bridged(self.context, self.after, self.gap, horizon=self.target.shape[1])

    def whole(self) -> tuple[Tensor, Tensor]:
        """Both [B, T + H + A]: the window with the truth in its gap, and where that is. `after` must be there."""
        assert self.gap is not None, "only a gap has something behind it"
        begin, horizon = self.context.shape[1], self.target.shape[1]
        values = self.seen
        step = torch.arange(values.shape[1], device=values.device) - begin
        hidden = (step >= 0) & (step < self.gap[:, None])
        truth = F.pad(self.target, (begin, values.shape[1] - begin - horizon), value=torch.nan)
        return torch.where(hidden, truth, values), hidden

    def backwards(self) -> "Batch":
        """The same gaps seen from behind, in reversed time; without a target where nothing behind was observed."""
        assert self.after is not None, "only a gap has something behind it"
        assert self.gap is not None, "only a gap has something behind it"
        step = torch.arange(self.target.shape[1], device=self.gap.device)
        place = self.gap[:, None] - 1 - step
        target = torch.where(place >= 0, self.target.gather(1, place.clamp(min=0)), torch.nan)
        known = (~self.after.isnan()).any(1, keepdim=True)
        return Batch(context=self.after.flip(1), target=torch.where(known, target, torch.nan))


def bridged(context: Tensor, after: Tensor, gap: Tensor, *, horizon: int) -> Tensor:
    """[B, T + H + A]: `context` [B, T], NaN for each row's `gap` [B] (at most `horizon`), `after` [B, A], NaN."""
    begin, length = context.shape[1], after.shape[1]
    values = context.new_full((len(context), begin + horizon + length), torch.nan)
    values[:, :begin] = context
    place = begin + gap[:, None] + torch.arange(length, device=gap.device)
    return values.scatter(1, place, after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a backbone says about the next H steps, in the units of the context it was given.

    `point` [B, H] is the mean where the backbone has one (`point_kind == "mean"`), else the median.
    `quantiles` [B, Q, H] are native quantiles at `levels`, sorted along Q; None for point models.
    """

    point: Tensor
    point_kind: Literal["mean", "median"]
    quantiles: Tensor | None
    levels: tuple[float, ...]


class Backbone(nn.Module, ABC):
    """A pretrained network. Subclasses live one per file and are named in one `BackboneSpec`.

    `config` holds every constructor value as JSON types: `from_config(config, seed=…)` rebuilds the same
    architecture offline with a *trainable* random initialisation drawn from `seed` alone (a forked RNG, so
    that the global generator is left as it was). The twin of SFF is `type(m).from_config(m.config, seed=s)`.
    """

    config: dict[str, Any]
    gradient_checkpointing: bool = False
    """True recomputes the activations of each block in the backward pass; set on the network, kept by no config."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Published architectures by the name of their `BackboneSpec`: what `from_config` takes."""
    lora_targets: ClassVar[str]
    """Anchored regex over full module names: the linears TRACE and LoRA may adapt."""
    head_name: ClassVar[str]
    """Prefix of the module that turns hidden states into the forecast. (Not `head`: published networks have a module of
    that name, which a class attribute would hide.)"""
    unused_parameters: frozenset[str] = frozenset()
    """Names loaded for the checkpoint's sake only: never trained, blended or scored. (An instance knows its depth.)"""
    fresh_parameters: frozenset[str] = frozenset()
    """Names that no published checkpoint holds: trained, but the same tensor in SFF's two models. What `fit_to` drew is
    among them."""
    head_linear: ClassVar[str | None] = None
    """Full name of the one linear that maps the flattened [B, N*D] hidden state to the H steps; None: no such head."""
    reconstructs: ClassVar[bool] = False
    """Whether `reconstruct` and `reconstruction_loss` are there; the spec's `scorings` say the same."""
    follows: ClassVar[bool] = False
    """Whether `predict_patches` is there; the spec's `scorings` say the same."""
    head_is_random: bool = False
    """True of a network whose forecasting head `fit_to` drew, so that it starts from its initialisation."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """The architecture of `config` with its own random initialisation under `seed`."""

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """`config` with the same limits (context, horizon, patches) at a width and depth that train in milliseconds."""
        raise NotImplementedError(f"{cls.__name__} has no tiny size")

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint's tensors under this class's own names and shapes; by default as they are.

        Whoever loads the result does so strictly: what is left out here is left out on purpose, with its reason beside.
        """
        return dict(tensors)

    def fit_to(self, prediction_length: int, *, seed: int) -> None:
        """Called once on pretrained weights before a method trains them for this horizon, and before such weights are
        opened again; by default nothing.

        For networks published without a forecasting head: one is drawn here under `seed`, and `config` says so.
        """

    @abstractmethod
    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Forecast `prediction_length` steps after `context` [B, T]; gradients flow, nothing is mutated.

        T may be anything up to the spec's context limit; shorter windows are left-padded with NaN by the
        caller or not at all, and both give the same answer. A row without any observed value, and a
        constant row, give finite numbers.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The backbone's native training loss, a scalar averaged over observed target points only.

        The horizon is `batch.target.shape[1]`; if it is below the native horizon only those steps count
        (`evaluation.md` §5). A batch whose targets are all missing gives 0 with a gradient path.
        """

    def reconstruct(self, values: Tensor, hidden: Tensor) -> Prediction:
        """Every step of `values` [B, T] as the rest of the window lets expect it, shown without the points where
        `hidden` [B, T] is True; what is NaN is not shown either. Where nothing was hidden the answer means nothing.

        T is at most the spec's context limit. Gradients flow; rows do not touch each other.
        """
        raise ConfigError(f"{type(self).__name__} does not reconstruct.", param="scoring")

    def reconstruction_loss(self, values: Tensor, hidden: Tensor) -> Tensor:
        """The native loss over the observed points of `values` [B, T] where `hidden` is True, averaged over them."""
        raise ConfigError(f"{type(self).__name__} does not reconstruct.", param="scoring")

    def predict_patches(self, context: Tensor, target: Tensor) -> Prediction:
        """What it says of each patch of `target` [B, H] having seen the true ones before it, in one pass.

        H is a multiple of the patch length. No step of the answer depends on its own patch or on a later one.
        """
        raise ConfigError(f"{type(self).__name__} does not answer patch by patch.", param="scoring")

    def objective(self, batch: Batch) -> Tensor:
        """What training minimises: `loss` of a forecast; of gaps the native reconstruction, else the forecasts from
        both sides, averaged over all that was observed."""
        if batch.after is None:
            return self.loss(batch)
        if self.reconstructs:
            return self.reconstruction_loss(*batch.whole())
        back = batch.backwards()
        counts = [(~part.isnan()).sum() for part in (batch.target, back.target)]
        losses = self.loss(Batch(context=batch.context, target=batch.target)), self.loss(back)
        weighted = sum(count * loss for count, loss in zip(counts, losses, strict=True))
        out: Tensor = weighted / (counts[0] + counts[1]).clamp(min=1)
        return out

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """`values` [B, H], in the units of `context` [B, T], in the space the network itself works in; NaN stays NaN.

        As they are by default: windows arrive standardised by their context, which is what instance-normalising
        networks do themselves.
        """
        return values

    def rows_together(self, context: Tensor) -> list[Tensor]:
        """Indices [b] of the rows of `context` [B, T] that pass each module in one call; every row in one of them.

        (Of a gap's window `context` is `Batch.seen`.) All rows by default. TRACE puts a gate of its own on each window
        and so has to know.
        """
        return [torch.arange(len(context), device=context.device)]

    def head_shape(self) -> tuple[int, int]:
        """(N, D): tokens and width of the hidden state that `head_linear` flattens; `ConfigError` where it is None."""
        raise ConfigError(f"{type(self).__name__} has no head over one flattened hidden state.", param="method.head")

    def put_quantile_head(self, *, seed: int) -> nn.Linear:
        """One linear from a window's last state to all levels of all steps that `fit_to` was told, in the head's place;
        drawn under `seed`, and `config` says so. `ConfigError` where the spec's `quantile_head` is False."""
        raise ConfigError(f"{type(self).__name__} takes no quantile head.", param="method.head")

    def quantile_head_examples(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What that linear is given after `context` [B, T], and what the head that it replaces would have it say."""
        raise ConfigError(f"{type(self).__name__} takes no quantile head.", param="method.head")

    def head_parameter_names(self) -> frozenset[str]:
        """Names of the parameters under `head_name`, the ones `linear_probe` trains."""
        return frozenset(n for n, _ in self.named_parameters() if n.startswith(self.head_name + "."))
