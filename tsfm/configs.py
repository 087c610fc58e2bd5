"""Frozen settings of training and of each method; every field cites where its default comes from.

Torch-free: the gateway builds API schemas from these dataclasses. Validation lives in `__post_init__` and raises
`ConfigError` naming the field.
"""

import re
from dataclasses import dataclass
from typing import Literal

from tsfm.errors import ConfigError

ALPHA_SEARCH = (0.3, 0.5, 0.7, 0.9, 0.95)
"""evaluation.md §6: the values "alpha": "search" tries."""
Initialisation = Literal["backbone", "pytorch", "matched"]
PRETRAINED = "pretrained"
"""What a job starts from by default: the published weights."""
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
    gradient_checkpointing: bool = False
    """True keeps no activations inside a block and computes them again in the backward pass: less memory, more time."""
    max_windows_per_epoch: int = 4_000
    """Windows are strided to this number, and the stride is recorded (design.md §4)."""
    max_validation_windows: int = 1_000
    """Read at least four times an epoch, so it is capped harder than the test block."""
    max_calibration_windows: int = 1_000
    """Each gives one score a step; a thousand resolve 99.9 % intervals."""
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
        _require(
            self.max_calibration_windows >= 1, "max_calibration_windows", "max_calibration_windows must be at least 1."
        )
        _require(self.max_test_windows >= 1, "max_test_windows", "max_test_windows must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomStart:
    """A job that starts from random weights instead of the published ones: for tests and research, on request only."""

    type: Literal["random"] = "random"
    seed: int = 0
    size: Literal["published", "tiny"] = "published"
    """ "tiny" keeps the published limits (context, horizon, patches) at a width and depth that train in seconds."""

    def __post_init__(self) -> None:
        _require(self.type == "random", "type", 'initialisation is "pretrained", or of the type "random".')
        _require(self.size in ("published", "tiny"), "size", 'size must be "published" or "tiny".')


@dataclass(frozen=True, slots=True, kw_only=True)
class LandscapeConfig:
    """What a job measures of its loss landscape (evaluation.md §8)."""

    surface: bool = False
    """Also the loss over two random directions around each network (papers.md §2.8)."""
    windows: int | None = None
    """Train windows; None takes as many as fit into a tenth of the time."""
    probes: int = 16
    """Rademacher probes behind the traces: evaluation.md §8 asks for at least 16."""

    def __post_init__(self) -> None:
        _require(self.windows is None or 1 <= self.windows <= 1_024, "windows", "windows must lie between 1 and 1024.")
        _require(16 <= self.probes <= 256, "probes", "probes must lie between 16 and 256.")


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
class LoRAConfig:
    """Low-rank adapters on the backbone's linears, all else frozen (arXiv 2106.09685; papers.md §2.4, Table 10)."""

    rank: int = 8
    """papers.md §2.4: rank 8 in SFF's table; less on linears so small that it would not save half their numbers."""
    lora_alpha: float = 16.0
    """The adapter's output is scaled by lora_alpha ÷ rank; papers.md §2.9 reads 16 where the paper is silent."""
    dropout: float = 0.1
    """On the adapters' inputs while training (papers.md §1.9)."""
    head: Literal["auto", "keep", "lora", "train"] = "auto"
    """The forecasting head: frozen, adapted like the rest, or trained whole. "auto" is "lora" (evaluation.md §7:
    refitting a pretrained head on few series hurts), or "train" where the checkpoint has no head."""
    init_seed: int = 0
    """Seed of the A matrices, drawn under a forked generator; B starts at zero."""

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 256, "rank", "rank must be between 1 and 256.")
        _require(0 < self.lora_alpha <= 1_024, "lora_alpha", "lora_alpha must lie above 0 and at most at 1024.")
        _require(0 <= self.dropout < 1, "dropout", "dropout must lie in [0, 1).")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaLoRAConfig:
    """LoRA whose ranks are shared out among the modules by importance while it trains (arXiv 2303.10512)."""

    initial_rank: int = 12
    """Rank of every module at the start; arXiv 2303.10512 §4: one and a half times the target."""
    target_rank: int = 8
    """Mean rank that is left; the same budget as `lora`'s default."""
    lora_alpha: float = 16.0
    """As `lora`'s; the output is scaled by lora_alpha ÷ initial_rank throughout."""
    dropout: float = 0.1
    head: Literal["auto", "keep", "lora", "train"] = "auto"
    """As `lora`'s."""
    warm_up_share: float = 0.1
    """Share of the steps at the initial ranks."""
    final_share: float = 0.5
    """Share of the steps after the last allocation (arXiv 2303.10512, appendix: about half the steps on most tasks)."""
    interval_steps: int = 10
    """Steps between two allocations."""
    smoothing: float = 0.85
    """Of importance and of its uncertainty, β1 = β2 (arXiv 2303.10512 §4)."""
    orthogonality: float = 0.1
    """Weight of the pull towards orthogonal A and B (arXiv 2303.10512, γ)."""
    init_seed: int = 0

    def __post_init__(self) -> None:
        _require(2 <= self.initial_rank <= 256, "initial_rank", "initial_rank must be between 2 and 256.")
        _require(
            1 <= self.target_rank < self.initial_rank,
            "target_rank",
            "target_rank must be at least 1 and below initial_rank.",
        )
        _require(0 < self.lora_alpha <= 1_024, "lora_alpha", "lora_alpha must lie above 0 and at most at 1024.")
        _require(0 <= self.dropout < 1, "dropout", "dropout must lie in [0, 1).")
        _require(0 <= self.warm_up_share < 1, "warm_up_share", "warm_up_share must lie in [0, 1).")
        _require(
            0 <= self.final_share < 1 - self.warm_up_share,
            "final_share",
            "final_share must be at least 0, and leave time between it and warm_up_share.",
        )
        _require(1 <= self.interval_steps <= 10_000, "interval_steps", "interval_steps must be between 1 and 10000.")
        _require(0 < self.smoothing < 1, "smoothing", "smoothing must lie between 0 and 1.")
        _require(0 <= self.orthogonality <= 100, "orthogonality", "orthogonality must be between 0 and 100.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LPFullConfig:
    """papers.md §2.4 (LPFF): linear probing, then everything, each with a complete learning-rate schedule."""

    probe_share: float = 0.5
    """Share of the steps that train the head alone; the authors give both phases as many epochs."""
    reinit_head: bool = False
    """True draws the head anew first, as SFF's authors do (evaluation.md §5); default keeps the pretrained one."""

    def __post_init__(self) -> None:
        _require(0 < self.probe_share < 1, "probe_share", "probe_share must lie between 0 and 1.")


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


QUANTILES = "quantiles"
"""TRACE's head for backbones that sample: one linear to all quantiles of all steps."""


def head_kind(name: str) -> tuple[str, int | None]:
    """("H1", 96) of "H1-96", ("H4", None) of "H4"; `ConfigError` for anything else."""
    found = re.fullmatch(r"(svd|H1b|H[1-4])(?:-([1-9]\d{0,3}))?", name)
    _require(
        found is not None and (found[1], found[2]) != ("svd", None),
        "head",
        'head is "auto", "keep", "lora", "quantiles", "svd-32" (any rank), H1, H1b, H2, H3 or H4 (H1-96: a size), '
        f"not {name!r}.",
    )
    assert found is not None
    return found[1], int(found[2]) if found[2] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """Gated LoRA, of which dynamic selection keeps the important modules (papers.md §1, evaluation.md §7).

    What the paper leaves open follows the recommended readings of papers.md §1.10; each field says which.
    """

    rank: int = 2
    """papers.md §1.5. Small matrices get less: at most in·out ÷ (2·(in+out)) (evaluation.md §7)."""
    lora_alpha: float = 4.0
    """What a module adds is scaled by lora_alpha ÷ rank; open in the paper, read as 2·rank."""
    dropout: float = 0.1
    """On the input of each module; open in the paper, read as 0.1."""
    keep_ratio: float = 0.5
    """Share of the modules that survives; open in the paper, read as one half."""
    rounds: int = 4
    """Selections, over which the number kept falls linearly; the last one freezes the mask. Open, read as 4."""
    first_round: float = 0.2
    """Share of the steps before the first selection, all modules on; must lie after the warm-up of the rate."""
    last_round: float = 0.5
    """Share of the steps before the final freeze; open, read as about half. Best step and patience begin there."""
    selection: Literal["dsic", "random", "magnitude"] = "dsic"
    """How modules are ranked: by simulated masking, or to compare with, by lot or by the norm of their update."""
    draws: int = 8
    """papers.md §1.5: simulated maskings per selection. Each masks the share that the selection will mask."""
    importance: Literal["taylor", "gradient"] = "taylor"
    """Per window |g·∂ℓ/∂(ξg)|, or without the factor g; open in the paper, read as the Taylor form."""
    all_draws: bool = False
    """Average importance over all draws; open in the paper, read as those in which the module is on."""
    selection_windows: int = 256
    """Validation windows per draw, the same in every one; open in the paper, read as about eight batches."""
    train_gates: bool = True
    """False freezes every gate at 1: with keep_ratio 1 that is `lora`. Gates start at 1 and are not decayed."""
    head: str = "auto"
    """"lora": the pretrained head is frozen, its linears are modules like others; "keep": frozen without; "svd-k" and
    "H1" to "H4" replace it (papers.md §1.4), "quantiles" by one linear to all quantiles where it samples
    (evaluation.md §7). "auto" is "lora", or "H4" where the checkpoint has no head."""
    init_seed: int = 0
    """Of the modules' initialisation, the simulated maskings and a new head, each under a generator of its own."""

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 256, "rank", "rank must be between 1 and 256.")
        _require(self.lora_alpha > 0, "lora_alpha", "lora_alpha must be positive.")
        _require(0 <= self.dropout < 1, "dropout", "dropout must lie in [0, 1).")
        _require(0 < self.keep_ratio <= 1, "keep_ratio", "keep_ratio must lie above 0 and at most at 1.")
        _require(1 <= self.rounds <= 64, "rounds", "rounds must be between 1 and 64.")
        _require(0 < self.first_round < 1, "first_round", "first_round is a share of the steps, between 0 and 1.")
        _require(
            self.first_round <= self.last_round < 1,
            "last_round",
            "last_round is a share of the steps, not before first_round and before 1.",
        )
        _require(1 <= self.draws <= 256, "draws", "draws must be between 1 and 256.")
        _require(1 <= self.selection_windows <= 65_536, "selection_windows", "selection_windows must be 1 to 65536.")
        if self.head not in ("auto", "keep", "lora", QUANTILES):
            head_kind(self.head)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoConfig:
    """Successive halving over methods and their few settings (design.md §5, evaluation.md §5)."""

    methods: tuple[str, ...] = ()
    """Methods to choose from; empty: every one the catalogue lists for it and the backbone supports."""
    reduction: int = 3
    """From rung to rung one in so many goes on, to a schedule so many times as long."""

    def __post_init__(self) -> None:
        _require(2 <= self.reduction <= 10, "reduction", "reduction must be between 2 and 10.")
