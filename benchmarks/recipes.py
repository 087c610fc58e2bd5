"""How each contender of `reproduce.py` is trained: its method, its trials on validation, its schedule.

`full` and `sff` get the same number of trials, picked on validation; the others get half as many. Methods are found by
name in the product's catalogue, then among `trainers.py`; only IBM's `head_decoder` lives here.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tsfm import catalog, methods
from tsfm.backbones.base import Backbone
from tsfm.configs import TrainConfig
from tsfm.methods.base import Method

SEEDED = ("twin_seed", "init_seed")
"""Options that take the seed of the run, so that seeds differ in all that is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadDecoderConfig:
    """IBM's few-shot recipe for TTM (evaluation.md §5, §9)."""

    head_dropout: float | None = None
    """Replaces the published dropout of decoder and head; IBM takes 0.7 on the ETT sets."""


class HeadDecoder(Method):
    """The encoder is frozen; decoder and head are trained. For networks with modules of these names: TTM."""

    config: HeadDecoderConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        trained = ("decoder.", backbone.head_name + ".")
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        if self.config.head_dropout is not None:
            for name, module in backbone.named_modules():
                if name.startswith(trained) and name.endswith("dropout"):
                    module.p = self.config.head_dropout
        return backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)
    """Of the method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One contender. Values that a table's reader must know are all in here: the cells are keyed by it."""

    name: str
    method: str
    trials: tuple[Trial, ...] = ()
    """Each a complete schedule; empty where nothing is trained."""
    epochs: int = 4
    batch_size: int = 64
    """Windows, or origins with all their channels."""
    by_origin: bool = False
    evaluations_per_epoch: int = 4
    patience: int = 6
    """Evaluations without a better one before a schedule is given up; the best weights on validation are taken."""
    warmup_fraction: float = 0.1
    weight_decay: float = 0.0

    def train_config(self, trial: Trial, *, seed: int) -> TrainConfig:
        return TrainConfig(
            max_epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=trial.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            evaluations_per_epoch=self.evaluations_per_epoch,
            patience=self.patience,
            checkpoint_every_seconds=1e9,
            seed=seed,
        )


def rates(*values: float, **options: Any) -> tuple[Trial, ...]:
    return tuple(Trial(learning_rate=value, options=dict(options)) for value in values)


TRACE = (*rates(6e-4), *rates(2e-4, 3e-4, rank=8, lora_alpha=16.0))
"""Both ranks hold fewer than a tenth of TTM's parameters; rank 2 is the paper's."""


def selected(by: str) -> tuple[Trial, ...]:
    """TRACE's trials with another selection."""
    return tuple(dataclasses.replace(trial, options={**trial.options, "selection": by}) for trial in TRACE)


AS_PUBLISHED: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 2_048,
    "evaluations_per_epoch": 1,
    "patience": 10,
    "warmup_fraction": 0.0,
}
"""SFF's own schedule (papers.md §2.4): ten epochs, all of them run, read after each. Two things differ: the rate falls
by a cosine instead of by halves, and gradients are clipped at 1."""


def as_published() -> tuple[Recipe, ...]:
    """The contenders of SFF's tables at their rate; `full` gets as many trials as SFF has alphas (evaluation.md §6)."""
    alphas = tuple(trial for alpha in (0.3, 0.5, 0.7, 0.9) for trial in rates(3e-5, alpha=alpha))
    return (
        Recipe(name="sff, as published", method="sff", trials=alphas, **AS_PUBLISHED),
        Recipe(name="full, as published", method="full", trials=rates(3e-5, 1e-5, 1e-4, 3e-4), **AS_PUBLISHED),
        Recipe(name="scratch, as published", method="scratch", trials=rates(3e-5), **AS_PUBLISHED),
        Recipe(
            name="linear_probe, as published",
            method="linear_probe",
            trials=rates(3e-5, reinit_head=True),
            **AS_PUBLISHED,
        ),
        Recipe(name="lora, as published", method="lora", trials=rates(3e-5, rank=8, lora_alpha=16.0), **AS_PUBLISHED),
    )


def recipes(set_name: str) -> dict[str, Recipe]:
    """Every contender on a set, by name."""
    listed: Iterable[Recipe] = (
        Recipe(name="zero_shot", method="zero_shot"),
        Recipe(name="linear_probe", method="linear_probe", trials=rates(3e-5, 1e-4, 3e-4)),
        # IBM's script: AdamW with torch's decay, OneCycle (it rises over 30 % of the steps), evaluated once an epoch.
        Recipe(
            name="head_decoder",
            method="head_decoder",
            trials=rates(1e-4, 3e-4, 1e-3, head_dropout=0.7 if set_name.startswith("ETT") else None),
            epochs=50,
            by_origin=True,
            evaluations_per_epoch=1,
            patience=10,
            warmup_fraction=0.3,
            weight_decay=0.01,
        ),
        Recipe(name="full", method="full", trials=rates(3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)),
        Recipe(
            name="sff",
            method="sff",
            trials=(*rates(1e-5, 3e-5, 1e-4, alpha=0.97), *rates(1e-5, 3e-5, 1e-4, alpha=0.99)),  # sff_search.py
        ),
        Recipe(name="scratch", method="scratch", trials=rates(3e-4, 1e-3, 3e-3)),
        Recipe(name="lp_full", method="lp_full", trials=rates(3e-5, 1e-4, 3e-4)),
        Recipe(name="lora", method="lora", trials=rates(1e-4, 3e-4, 1e-3)),
        Recipe(name="adalora", method="adalora", trials=rates(3e-4, 1e-3, 3e-3)),
        Recipe(name="trace", method="trace", trials=TRACE),
        Recipe(name="trace, random", method="trace", trials=selected("random")),
        Recipe(name="trace, magnitude", method="trace", trials=selected("magnitude")),
        Recipe(name="sam", method="sam", trials=tuple(t for rho in (0.01, 0.05, 0.1) for t in rates(3e-5, rho=rho))),
        Recipe(name="swa", method="swa", trials=rates(1e-5, 3e-5, 1e-4)),
        Recipe(
            name="l2_sp",
            method="l2_sp",
            trials=tuple(t for beta in (1e-3, 1e-2, 1e-1) for t in rates(3e-5, beta=beta)),
        ),
        *as_published(),
    )
    return {recipe.name: recipe for recipe in listed}


def create(name: str, options: Mapping[str, Any], *, seed: int) -> Method:
    """The method of a trial; `UnknownName` where neither the catalogue nor the benchmarks have it."""
    if name == "head_decoder":
        return HeadDecoder(HeadDecoderConfig(**options))
    config = catalog.method(name).config
    drawn = {f.name: seed for f in dataclasses.fields(config) if f.name in SEEDED}
    return methods.create(name, config(**{**drawn, **options}))


def known(recipe: Recipe) -> bool:
    """Whether the method can be had in this version."""
    return recipe.method == "head_decoder" or recipe.method in catalog.METHODS
