"""Frozen settings of training and of each method; every field cites where its default comes from.

Torch-free: the gateway builds API schemas from these dataclasses. Validation lives in `__post_init__` and raises
`ConfigError` naming the field.
"""

from dataclasses import dataclass
from typing import Literal

from tsfm.errors import ConfigError

ALPHA_SEARCH = (0.3, 0.5, 0.7, 0.9, 0.95)
"""evaluation.md §6: the values "alpha": "search" tries."""
Initialisation = Literal["backbone", "pytorch", "matched"]
LEARNING_RATE_SEARCH = (1 / 3, 1.0, 3.0)
"""evaluation.md §5: "learning_rate": "auto" tries these multiples of the method's default."""


def _require(condition: bool, param: str, message: str) -> None:
    if not condition:
        raise ConfigError(message, param=param)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the one training loop (`tsfm/train.py`), already resolved: no "auto" is left in here."""

    max_epochs: int = 10
    """papers.md §2.4: ten epochs in every SFF experiment."""
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    """papers.md §2.4: Adam without decay by default."""
    warmup_fraction: float = 0.1
    """Share of the total steps with rising learning rate; patience counts after it (evaluation.md §5)."""
    max_gradient_norm: float = 1.0
    evaluations_per_epoch: int = 4
    """evaluation.md §5: at least four."""
    patience: int = 8
    """Evaluations without a better validation error before the run stops early."""
    early_stopping: bool = True
    """False trains every step and keeps the last weights: validation is logged and decides nothing."""
    max_windows_per_epoch: int = 4_000
    """Windows are strided to this number, and the stride is recorded (design.md §4)."""
    max_validation_windows: int = 1_000
    """Read at least four times an epoch, so it is capped harder than the test block."""
    max_test_windows: int = 5_000
    checkpoint_every_seconds: float = 30.0
    checkpoint_every_steps: int | None = None
    """Besides the clock; for tests that must be killed at a known step."""
    seed: int = 0

    def __post_init__(self) -> None:
        _require(1 <= self.max_epochs <= 1_000, "max_epochs", "max_epochs must be between 1 and 1000.")
        _require(1 <= self.batch_size <= 4_096, "batch_size", "batch_size must be between 1 and 4096.")
        _require(self.gradient_accumulation >= 1, "gradient_accumulation", "gradient_accumulation must be at least 1.")
        _require(0 < self.learning_rate < 1, "learning_rate", "learning_rate must lie between 0 and 1.")
        _require(self.weight_decay >= 0, "weight_decay", "weight_decay must not be negative.")
        _require(0 <= self.warmup_fraction < 1, "warmup_fraction", "warmup_fraction must lie in [0, 1).")
        _require(self.max_gradient_norm > 0, "max_gradient_norm", "max_gradient_norm must be positive.")
        _require(self.evaluations_per_epoch >= 1, "evaluations_per_epoch", "evaluations_per_epoch must be at least 1.")
        _require(self.patience >= 1, "patience", "patience must be at least 1.")
        _require(self.max_windows_per_epoch >= 1, "max_windows_per_epoch", "max_windows_per_epoch must be at least 1.")
        _require(
            self.max_validation_windows >= 1, "max_validation_windows", "max_validation_windows must be at least 1."
        )
        _require(self.max_test_windows >= 1, "max_test_windows", "max_test_windows must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotConfig:
    """No options: the pretrained backbone is served as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig:
    """papers.md §2.4 (LP): only the head is trained."""

    reinit_head: bool = False
    """True re-initialises the head first, as SFF's authors do (evaluation.md §5); default trains the pretrained one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullConfig:
    """papers.md §2.1: plain full fine-tuning, SFF at alpha = 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchConfig:
    """papers.md §2.1: training from the random twin, SFF at alpha = 0."""

    twin_seed: int = 0
    """Seed of the random initialisation; the same default as SFF's twin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SFFConfig:
    """Smoothed full fine-tuning: theta = alpha*pretrained + (1 - alpha)*random, once, then full (papers.md §2.1)."""

    alpha: float | Literal["search"] = 0.9
    """Weight on the pretrained side, 0 to 1 (evaluation.md §6); "search" picks from `ALPHA_SEARCH` on validation."""
    twin_seed: int = 0
    """Seed of the random twin, drawn under a forked generator so that alpha = 1 sees the data order of `full`."""
    initialisation: Initialisation = "backbone"
    """How the twin is drawn (evaluation.md §6): "backbone" is its own trainable initialisation; "pytorch" what torch's
    layers give by default, as in the authors' code (papers.md §2.1); "matched" is the backbone's own draw, rescaled so
    that each tensor has the norm of the pretrained one."""
    exclude: tuple[str, ...] = ()
    """Parameter-name prefixes left pretrained; the default blends everything, as the authors' code does."""

    def __post_init__(self) -> None:
        number = isinstance(self.alpha, float | int) and not isinstance(self.alpha, bool)
        _require(
            self.alpha == "search" or (number and 0.0 <= float(self.alpha) <= 1.0),
            "alpha",
            'alpha is the weight on the pretrained side: it must lie in [0, 1], or be "search".',
        )
