"""What does each backbone cost on a CPU at its published size, and is ours as fast as its authors' code?

    python benchmarks/backbones.py                          every backbone; a second call skips what is done
    python benchmarks/backbones.py --backbones units-x32    some
    python benchmarks/backbones.py --table                  the Markdown of docs/benchmarks.md from what is done

Random weights: cost does not depend on what the weights say. A backbone is measured in processes of its own: for
forecasts, for what a step needs, for training steps, for the peak of memory of a forecast and of each step. A forecast
is `predict` of one pass after 512 steps (where the network has one fixed context, that), a training step loss,
backward, clipping and AdamW in float32. Ours and the authors' network (`references.py`) take turns in one process,
round by round; a ratio is the median over the rounds. While they train, their process keeps what they free
(`app.allocator.RUN`). Batches of training are 32 or the largest power of two that fits the memory and the time
given; the table says which. What would take more than most of the free memory fails in its own process, before the
machine is short of it: a reference that does so is left out of that time. Where two networks do not fit together to
train, they train one after the other ("apart"). The extra "parity" has to be installed for references other than
Chronos: without it their cells stay open, and a later run measures them again.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from backbones_table import markdown, ratios
from common import MIB, RESULTS, Row, append, facts, median, peak_rss_bytes, run
from references import AbsentReference, Loss, Reference, reference

from app import allocator
from tsfm import catalog, methods
from tsfm.backbones import implementation
from tsfm.backbones.base import Backbone, Batch
from tsfm.methods.base import Method
from tsfm.spec import BackboneSpec

CONTEXT, HORIZON = 512, 96
LARGEST_BATCH = 32
STEPS = ("full", "sff", "trace")
COUNTED = ("full", "linear_probe", "lora", "trace")
MEMORY = ("forecast", "full", "trace")
BYTES_A_PARAMETER = 16
"""Float32 weight, gradient, and AdamW's two moments."""
SHORT_SECONDS, MOST_ROUNDS = 2.0, 100
"""What is quick goes on so long, or so often."""
SHARE_OF_MEMORY = 0.7
"""Of what is free, for a training step of several windows."""
MOST_OF_MEMORY = 0.85
"""Of what is free, for anything, a training step of one window too: the allocation that would go beyond raises."""
TRAINING = ("steps", "steps_beside", "reference_step")
"""Parts whose process keeps what it frees, as a run does. Where it is given back while two networks take turns, every
page is made anew for the one whose turn it is: up to 3 s of a step of 8 s, most for whoever has larger tensors."""


def main() -> None:
    if sys.argv[1:2] == ["--part"]:  # a process of its own (`in_process`)
        part, name, settings = sys.argv[2:]
        settle(json.loads(settings)["threads"])
        print(json.dumps(PARTS[part](catalog.backbone(name), argparse.Namespace(**json.loads(settings)))))
        return
    run("backbones", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", nargs="+", default=list(catalog.BACKBONES), choices=list(catalog.BACKBONES))
    parser.add_argument("--size", default="published", choices=["published", "tiny"], help="tiny: a trial of this file")
    parser.add_argument(
        "--rounds", type=int, default=7, help="of each time; fewer of what is slow, more of what is quick"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="after which no further round of a time begins")
    parser.add_argument("--step-seconds", type=float, default=10.0, help="a training step may be expected to take")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    parser.add_argument("--cells", type=Path, default=RESULTS / "backbones_cells.jsonl", help="what is done")
    parser.add_argument("--table", action="store_true", help="measure nothing")


def measure(options: argparse.Namespace) -> list[Row]:
    done = finished(options.cells, size=options.size)
    for name in options.backbones:
        if options.table or (name in done and not open_reference(done[name])):
            continue
        done[name] = cell(name, options)
        append(options.cells, done[name])
        print(f"{name}: {done[name]['seconds']:.0f} s", flush=True)
    cells = [done[name] for name in options.backbones if name in done]
    print(markdown(cells))
    return ratios(cells)


def finished(path: Path, *, size: str) -> dict[str, dict[str, Any]]:
    """The newest cell of each backbone."""
    if not path.exists():
        return {}
    cells = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {found["name"]: found for found in cells if found["size"] == size}


def open_reference(found: dict[str, Any]) -> bool:
    """Whether the cell lacks a reference that can be asked now."""
    missing, _, lacking = found["times"]["reference"].partition(" is not installed")
    return bool(lacking) and importlib.util.find_spec(missing) is not None


def cell(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one backbone, each part in a process of its own."""
    begun, machine = time.monotonic(), facts()
    forecasts = in_process("forecasts", name, options, batch=0)
    steps = training(name, options, reference_trains=forecasts.pop("reference_trains"))
    batch = steps["full"]["batch"] if steps else 0
    peaks = {
        part: in_process(part, name, options, batch=batch)["peak_bytes"] / MIB
        for part in MEMORY
        if batch or part == "forecast"
    }
    return {
        "name": name,
        "size": options.size,
        "machine": machine,
        "times": {**forecasts, "steps": steps},
        "peak_mib": peaks,
        "seconds": time.monotonic() - begun,
    }


def training(name: str, options: argparse.Namespace, *, reference_trains: bool) -> dict[str, Any]:
    """A step of each method in the batch that fits; of the reference too, by turns, or "apart" where two do not fit."""
    need = Need(**in_process("need", name, options, batch=0))
    alone, together = (need.fitting_batch(available_bytes(), options.step_seconds, copies=n) for n in (1, 2))
    if reference_trains and together:
        return in_process("steps_beside", name, options, batch=together)
    if not alone:
        return {}
    steps = in_process("steps", name, options, batch=alone)
    if reference_trains:
        steps["full"] |= beside(steps["full"], in_process("reference_step", name, options, batch=alone))
    return steps


def beside(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """The reference's half of a time, measured after ours: a ratio of medians, since no rounds were shared."""
    return {
        "reference_ms": theirs["ms"],
        "reference_lowest_ms": theirs["lowest_ms"],
        "ratio": ours["ms"] / theirs["ms"],
        "apart": True,
    }


def in_process(part: str, name: str, options: argparse.Namespace, *, batch: int) -> dict[str, Any]:
    asked = ("size", "rounds", "seconds", "step_seconds", "threads")
    settings = {**{option: getattr(options, option) for option in asked}, "batch": batch}
    words = [sys.executable, __file__, "--part", part, name, json.dumps(settings)]
    environment = {**os.environ, **(allocator.RUN if part in TRAINING else {})}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{part} of {name} failed:\n{done.stderr[-4_000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# In a process of its own ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One backbone at one size."""

    spec: BackboneSpec
    config: dict[str, Any]
    context: int
    horizon: int

    @classmethod
    def of(cls, spec: BackboneSpec, size: str) -> "Subject":
        most = spec.context_length if spec.replaceable_head else min(CONTEXT, spec.context_length)
        return cls(
            spec=spec,
            config=config_of(spec, size),
            context=most // spec.patch_length * spec.patch_length,
            horizon=min(HORIZON, spec.prediction_length),
        )

    def network(self) -> Backbone:
        model = implementation(self.spec).from_config(self.config, seed=0)
        model.fit_to(self.horizon, seed=0)
        return model.eval()

    def batch(self, rows: int) -> Batch:
        steps = torch.arange(self.context + self.horizon)
        noise = torch.randn(rows, len(steps), generator=torch.Generator().manual_seed(0))
        values = torch.sin(steps / 4) + 0.3 * noise
        return Batch(context=values[:, : self.context], target=values[:, self.context :])


def config_of(spec: BackboneSpec, size: str) -> dict[str, Any]:
    made = implementation(spec)
    published = dict(made.configs[spec.name])
    return published if size == "published" else made.shrunk(published)


def forecasts_of(spec: BackboneSpec, options: argparse.Namespace) -> dict[str, Any]:
    """Parameters, and forecasts at batch 1 and 32, each beside the reference where there is one."""
    subject = Subject.of(spec, options.size)
    try:
        theirs: Reference | None = reference(spec.implementation, subject.config, horizon=subject.horizon)
        said = theirs.package if theirs else ""
    except AbsentReference as absent:
        theirs, said = None, str(absent)
    network = subject.network()
    unused = sum(p.numel() for name, p in network.named_parameters() if name in network.unused_parameters)
    answer: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "unused_parameters": unused,
        "context": subject.context,
        "horizon": subject.horizon,
        "reference": said,
        "reference_trains": theirs is not None and theirs.loss is not None,
        "threads": torch.get_num_threads(),
        "forecasts": {},
    }
    for rows in (1, LARGEST_BATCH):
        answer["forecasts"][str(rows)] = in_turns(*forecasts(network, theirs, subject.batch(rows)), options)
    del network, theirs
    answer["trainable"] = {name: trainable(name, subject) for name in COUNTED if name in spec.methods}
    return answer


def need_of(spec: BackboneSpec, options: argparse.Namespace) -> dict[str, Any]:
    return asdict(Need.of(Subject.of(spec, options.size)))


def all_steps_of(spec: BackboneSpec, options: argparse.Namespace, *, beside: bool) -> dict[str, Any]:
    """Training steps under each method; `full` beside the reference where both fit."""
    importlib.import_module("torch._dynamo")  # every optimizer imports it: not on the clock of whoever comes first
    subject = Subject.of(spec, options.size)
    theirs = reference(spec.implementation, subject.config, horizon=subject.horizon) if beside else None
    steps = {}
    for name in STEPS:
        if name in spec.methods:
            gc.collect()
            steps[name] = {"batch": options.batch, **steps_of(name, subject, theirs, options)}
    return steps


def forecasts(
    network: Backbone, theirs: Reference | None, batch: Batch
) -> tuple[Callable[[], object], Callable[[], object] | None]:
    steps = batch.target.shape[1]

    def ours() -> object:
        with torch.inference_mode():
            return network.predict(batch.context, steps)

    if theirs is None:
        return ours, None
    theirs.network.eval()

    def other() -> object:
        with torch.inference_mode():
            return theirs.forward(batch.context)

    return ours, other


def steps_of(name: str, subject: Subject, theirs: Reference | None, options: argparse.Namespace) -> dict[str, Any]:
    """Of one method; the reference takes turns with `full` alone, its narrower losses after its own."""
    batch = subject.batch(options.batch)
    method, model = prepared(name, subject)
    ours = stepper([p for _, p in method.trainable_parameters(model)], lambda: gradients(method, model, batch))
    with model_in_training(model):
        if name != "full" or theirs is None or theirs.loss is None:
            return in_turns(ours, None, options)
        answer = in_turns(ours, reference_stepper(theirs, theirs.loss, batch), options)
        narrower = {
            trained: in_turns(ours, reference_stepper(theirs, loss, batch), options)
            for trained, loss in theirs.narrower.items()
        }
        return answer | ({"narrower": narrower} if narrower else {})


def reference_step_of(spec: BackboneSpec, options: argparse.Namespace) -> dict[str, Any]:
    """A training step of the reference, alone in its process."""
    importlib.import_module("torch._dynamo")
    subject = Subject.of(spec, options.size)
    theirs = reference(spec.implementation, subject.config, horizon=subject.horizon)
    assert theirs is not None, "there was one when ours was measured"
    assert theirs.loss is not None, "what has no loss is not trained"
    return in_turns(reference_stepper(theirs, theirs.loss, subject.batch(options.batch)), None, options)


def reference_stepper(theirs: Reference, loss: Loss, batch: Batch) -> Callable[[], None]:
    theirs.network.train()
    used = [p for p in theirs.network.parameters() if p.requires_grad]
    return stepper(used, lambda: loss(batch.context, batch.target).backward())


def prepared(name: str, subject: Subject) -> tuple[Method, Backbone]:
    """A method on a fresh network, as before its first step (TRACE: with all modules on)."""
    config = catalog.method(name).config
    head = {"head": "train"} if subject.spec.random_head and name == "lora" else {}
    method = methods.create(name, config(**head))
    model = method.prepare(subject.network())
    few = [subject.batch(2)]
    method.bind(model, few, few)
    return method, model


def gradients(method: Method, model: Backbone, batch: Batch) -> None:
    method.gradients(model, batch, weight=1.0, precision=nullcontext())


def stepper(parameters: Sequence[torch.nn.Parameter], add_gradients: Callable[[], object]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)  # as the product's loop

    def step() -> None:
        add_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextlib.contextmanager
def model_in_training(model: Backbone) -> Iterator[None]:
    model.train()
    yield
    model.eval()
    gc.collect()


def trainable(name: str, subject: Subject) -> int:
    method, model = prepared(name, subject)
    return method.num_trainable_parameters(model)


def in_turns(
    ours: Callable[[], object], theirs: Callable[[], object] | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Milliseconds of each, round by round; the first round warms up and counts only where it is the only one.

    Without theirs, and `reference_too_large`, where theirs does not fit the memory.
    """
    mine: list[float] = []
    other: list[float] = []
    begun, too_large = time.perf_counter(), False
    taken = 0.0
    while taken < options.seconds and (
        len(mine) <= options.rounds or (taken < SHORT_SECONDS and len(mine) < MOST_ROUNDS)
    ):
        mine.append(milliseconds(ours))
        if theirs is not None:
            took = milliseconds_if_it_fits(theirs)
            if took is None:
                theirs, other, too_large = None, [], True
            else:
                other.append(took)
        taken = time.perf_counter() - begun
    mine, other = (all_[1:] or all_ for all_ in (mine, other))
    answer: dict[str, Any] = {"ms": median(mine), "lowest_ms": min(mine), "rounds": len(mine)}
    if other:
        pairs = [a / b for a, b in zip(mine, other, strict=True)]
        answer |= {"reference_ms": median(other), "reference_lowest_ms": min(other), "ratio": median(pairs)}
    return answer | ({"reference_too_large": True} if too_large else {})


def milliseconds_if_it_fits(work: Callable[[], object]) -> float | None:
    """None where memory is denied (`settle`)."""
    try:
        return milliseconds(work)
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
    gc.collect()
    return None


def milliseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a training step takes of a network."""

    parameters: int
    row_bytes: float
    """Kept for the backward pass."""
    row_seconds: float

    @classmethod
    def of(cls, subject: Subject) -> "Need":
        model = prepared("full", subject)[1].train()
        kept: dict[int, int] = {}

        def count(t: torch.Tensor) -> torch.Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        few = subject.batch(2)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            loss = model.loss(few)
        row_bytes = sum(size for at, size in kept.items() if at not in weights) / 2
        del loss
        gc.collect()
        seconds = milliseconds(lambda: model.loss(few).backward()) / 1e3 / 2
        return cls(parameters=sum(p.numel() for p in model.parameters()), row_bytes=row_bytes, row_seconds=seconds)

    def fitting_batch(self, free_bytes: int, step_seconds: float, *, copies: int) -> int:
        """The largest power of two, at most 32, whose step fits the free memory and the time given; 0: none does.

        `copies` of the network are trained by turns.
        """
        fixed = copies * BYTES_A_PARAMETER * self.parameters

        def fits(rows: int, share: float) -> bool:
            return fixed + 2 * rows * self.row_bytes <= share * free_bytes

        rows = LARGEST_BATCH
        while rows > 1 and not (fits(rows, SHARE_OF_MEMORY) and rows * self.row_seconds <= step_seconds):
            rows //= 2
        return rows if fits(rows, SHARE_OF_MEMORY if rows > 1 else MOST_OF_MEMORY) else 0


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1_024
    raise SystemExit("/proc/meminfo does not say how much memory is free")


def peak_of(part: str) -> Callable[[BackboneSpec, argparse.Namespace], dict[str, Any]]:
    """Most resident memory of a process that forecasts one batch of 32, or trains for two steps."""

    def measured(spec: BackboneSpec, options: argparse.Namespace) -> dict[str, Any]:
        subject = Subject.of(spec, options.size)
        if part == "forecast":
            ours, _ = forecasts(subject.network(), None, subject.batch(LARGEST_BATCH))
            ours()
        elif part in spec.methods:
            batch = subject.batch(options.batch)
            method, model = prepared(part, subject)
            model.train()
            step = stepper([p for _, p in method.trainable_parameters(model)], lambda: gradients(method, model, batch))
            step()
            step()
        return {"peak_bytes": peak_rss_bytes(os.getpid())}

    return measured


def settle(threads: int) -> None:
    warnings.simplefilter("ignore")  # the references' own
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    most = round(MOST_OF_MEMORY * available_bytes())
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


PARTS: dict[str, Callable[[BackboneSpec, argparse.Namespace], dict[str, Any]]] = {
    "forecasts": forecasts_of,
    "need": need_of,
    "steps": partial(all_steps_of, beside=False),
    "steps_beside": partial(all_steps_of, beside=True),
    "reference_step": reference_step_of,
    **{part: peak_of(part) for part in MEMORY},
}


if __name__ == "__main__":
    main()
