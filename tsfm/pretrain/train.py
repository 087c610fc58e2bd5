"""The run that makes `temper-tiny`: synthetic batches, masked pinball loss, AdamW, warm-up / constant / decay, EMA.

Everything a step needs is a function of (seed, step), and the state is saved as safetensors and JSON, so that an
interrupted run continues with identical numbers on the same machine. The learning rate before the decay does not
depend on the number of steps: a run may be resumed with another `steps` as long as the decay has not begun.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsfm.backbones.tiny import Tiny
from tsfm.errors import ConfigError, NonFinite
from tsfm.pretrain import prior

LENGTH = 640
PATCH = 16
CONTEXT_PATCHES = 32
HORIZON_PATCHES = 8
BLOCK_ROWS = 1024
HOLDOUT_SEED_OFFSET = 1_000_003
"""Hold-out series come from another seed than any training block of the same run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the numbers of a run."""

    steps: int = 55_000
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 500
    decay_fraction: float = 0.3
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    ema: float = 0.999
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4

    def rate(self, step: int) -> float:
        """Learning rate of `step` (from 0): linear warm-up, constant, linear decay to zero."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        cooling = max(1, round(self.decay_fraction * self.steps))
        return self.learning_rate * warm * min(1.0, max(0.0, (self.steps - step) / cooling))


@dataclass(slots=True)
class State:
    """What a checkpoint holds."""

    model: Tiny
    optimizer: torch.optim.AdamW
    ema: dict[str, Tensor]
    step: int = 0
    cpu_seconds: float = 0.0


class Batches:
    """Batches by step number; keeps the current block of series only."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.block = -1
        self.series: NDArray[np.float32] = np.empty((0, LENGTH), np.float32)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Values [B, L] and the points to hide [B, L] of one step."""
        rows = self.plan.batch_size
        per_block = BLOCK_ROWS // rows
        if step // per_block != self.block:
            self.block = step // per_block
            self.series, _ = prior.draw_block(self.plan.seed, self.block, rows=BLOCK_ROWS, length=LENGTH)
        first = step % per_block * rows
        rng = np.random.default_rng((self.plan.seed, step, 1))
        return cut(rng, self.series[first : first + rows])


def cut(rng: np.random.Generator, series: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """A window of `series` and its mask: mostly a hidden tail, often at full context, sometimes interior spans too."""
    context = CONTEXT_PATCHES if rng.random() < 0.5 else int(rng.integers(4, CONTEXT_PATCHES))
    horizon = int(rng.integers(1, HORIZON_PATCHES + 1))
    inside = rng.random() < 0.2
    if inside and rng.random() < 0.4:
        horizon = 0
    length = (context + horizon) * PATCH
    offset = int(rng.integers(0, series.shape[1] - length + 1))
    values = series[:, offset : offset + length]
    steps = np.arange(length)[None, :]
    hidden = np.broadcast_to(steps >= context * PATCH, values.shape).copy()
    if inside:
        for _ in range(3):
            size = np.exp(rng.uniform(0, np.log(96), (len(series), 1)))
            start = rng.uniform(0, context * PATCH, (len(series), 1))
            hidden |= (steps >= start) & (steps < start + size)
    return torch.from_numpy(np.ascontiguousarray(values)), torch.from_numpy(hidden)


def start(plan: Plan) -> State:
    config = {"d_model": plan.d_model, "num_layers": plan.num_layers, "num_heads": plan.num_heads}
    model = Tiny.from_config(config, seed=plan.seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
    return State(model=model, optimizer=optimizer, ema={n: p.detach().clone() for n, p in model.named_parameters()})


def advance(state: State, plan: Plan, batches: Batches) -> float:
    """One optimizer step; returns the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = plan.rate(state.step)
    values, hidden = batches(state.step)
    loss = state.model.masked_loss(values, hidden, relative=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), plan.clip_norm)
    if not torch.isfinite(norm):
        raise NonFinite(f"The gradient of pretraining step {state.step} is not finite.")
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    keep = min(plan.ema, state.step / (state.step + 10))
    with torch.no_grad():
        averages, current = list(state.ema.values()), [p.detach() for p in state.model.parameters()]
        torch._foreach_lerp_(averages, current, 1 - keep)
    return float(loss.detach())


def averaged(state: State) -> Tiny:
    """A model with the averaged weights, in eval mode."""
    model = Tiny.from_config(state.model.config, seed=0)
    model.load_state_dict(state.ema, strict=True)
    return model.eval()


def holdout_loss(model: Tiny, plan: Plan, *, rows: int = 512) -> float:
    """Normalised pinball loss 512 -> 96 on series from a seed that training never draws from."""
    series, _ = prior.draw_block(plan.seed + HOLDOUT_SEED_OFFSET, 0, rows=rows, length=LENGTH)
    values = torch.from_numpy(series[:, : 512 + 96])
    hidden = torch.zeros_like(values, dtype=torch.bool)
    hidden[:, 512:] = True
    with torch.no_grad():
        losses = [model.masked_loss(values[i : i + 64], hidden[i : i + 64]) for i in range(0, rows, 64)]
    return float(torch.stack(losses).mean())


def save(state: State, plan: Plan, folder: Path) -> None:
    """The resumable state, written aside and renamed: weights, averages and moments in one safetensors file."""
    tensors = {f"model.{n}": p.detach() for n, p in state.model.named_parameters()}
    tensors |= {f"ema.{n}": t for n, t in state.ema.items()}
    for name, parameter in state.model.named_parameters():
        for moment, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{moment}.{name}"] = value
    facts = {"step": str(state.step), "cpu_seconds": str(state.cpu_seconds), "plan": json.dumps(asdict(plan))}
    aside = folder / "state.safetensors.part"
    save_file({n: t.contiguous() for n, t in tensors.items()}, aside, metadata=facts)
    os.replace(aside, folder / "state.safetensors")
    write_json(folder / "state.json", facts | {"plan": asdict(plan), "step": state.step})


def resume(plan: Plan, folder: Path) -> State:
    """The state stored in `folder`; `plan` may differ from the stored one in `steps` only, before the decay."""
    facts = json.loads((folder / "state.json").read_text())
    stored, wanted = dict(facts["plan"]), asdict(plan)
    before = Plan(**stored)
    undecided = all(int(facts["step"]) <= p.steps - round(p.decay_fraction * p.steps) for p in (before, plan))
    if undecided:
        stored["steps"] = wanted["steps"]
    if stored != wanted:
        changed = sorted(k for k in wanted if stored[k] != wanted[k])
        raise ConfigError(f"The checkpoint in {folder.name} was made with another plan; different: {changed}.")
    tensors = load_file(folder / "state.safetensors")
    state = start(plan)
    state.step, state.cpu_seconds = int(facts["step"]), float(facts["cpu_seconds"])
    with torch.no_grad():
        for name, parameter in state.model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            state.ema[name].copy_(tensors[f"ema.{name}"])
            moments = {m: tensors.get(f"optimizer.{m}.{name}") for m in ("step", "exp_avg", "exp_avg_sq")}
            state.optimizer.state[parameter] = {m: t.clone() for m, t in moments.items() if t is not None}
    return state


def publish(state: State, plan: Plan, folder: Path, log: list[dict[str, Any]]) -> None:
    """The averaged weights in half precision, their configuration, and what was measured on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: t.to(torch.float16).contiguous() for n, t in state.ema.items()}
    aside = folder / "model.safetensors.part"
    save_file(weights, aside, metadata={"format": "pt"})
    os.replace(aside, folder / "model.safetensors")
    write_json(folder / "config.json", state.model.config)
    metrics = {
        "generator_version": prior.GENERATOR_VERSION,
        "plan": asdict(plan),
        "step": state.step,
        "series_seen": state.step * plan.batch_size,
        "cpu_hours": round(state.cpu_seconds / 3600, 3),
        "log": log,
    }
    write_json(folder / "metrics.json", metrics)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


@contextmanager
def one_fast_thread() -> Iterator[None]:
    """One thread, no denormals, and oneDNN's matrix products instead of MKL's (1.3 times the steps on AMD, measured).

    "bf16" only *allows* oneDNN to round; without matrix units it computes in float32 with the same result as MKL.
    Its per-call cost is too high for fused attention on 40 tokens, hence the plain one.
    """
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    threads, precision = torch.get_num_threads(), products.fp32_precision
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    products.fp32_precision = "bf16"
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        products.fp32_precision = precision


Report = Callable[[dict[str, Any]], None]


def run(plan: Plan, out: Path, *, every: int = 1000, report: Report = lambda entry: None) -> State:
    """Train to `plan.steps`, saving, publishing and reporting each `every` steps; resumes what lies in `out`."""
    with one_fast_thread():
        return _run(plan, out, every, report)


def _run(plan: Plan, out: Path, every: int, report: Report) -> State:
    out.mkdir(parents=True, exist_ok=True)
    resumed = (out / "state.json").exists()
    state = resume(plan, out) if resumed else start(plan)
    log: list[dict[str, Any]] = json.loads((out / "metrics.json").read_text())["log"] if resumed else []
    batches = Batches(plan)
    state.model.train()
    recent: list[float] = []
    cpu_before, clock = state.cpu_seconds - time.process_time(), time.monotonic()
    while state.step < plan.steps:
        recent.append(advance(state, plan, batches))
        if state.step % every == 0 or state.step == plan.steps:
            state.cpu_seconds = cpu_before + time.process_time()
            entry = {
                "step": state.step,
                "train_loss": round(float(np.mean(recent)), 5),
                "holdout_loss": round(holdout_loss(averaged(state), plan), 5),
                "learning_rate": plan.rate(state.step),
                "cpu_hours": round(state.cpu_seconds / 3600, 4),
                "milliseconds_per_step": round(1000 * (time.monotonic() - clock) / len(recent), 1),
            }
            log.append(entry)
            save(state, plan, out)
            publish(state, plan, out, log)
            report(entry)
            recent, clock = [], time.monotonic()
    return state
