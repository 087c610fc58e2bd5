"""Runs that are killed, each in a process of its own: `python -m tests.tsfm.runner DIR BACKBONE METHOD KILLS [TASK]`.

"toy" is the tests' MLP; "small" is the architecture of temper-tiny with one layer, random weights and dropout. KILLS
are shares of the unbroken run's length, e.g. "0.1,0.4,0.2": one run is killed (-9) after each, then the last is left
alone. This process only imports torch and forks, so that the import is paid once; it answers one JSON line.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # every optimizer imports it: once here instead of once per child
from safetensors.torch import save

from tests import toy
from tsfm import auto, catalog, finetune, methods, search
from tsfm.backbones import build
from tsfm.backbones.weights import tensors_of
from tsfm.configs import TrainConfig
from tsfm.request import FinetuneRequest

SMALL = {
    "d_model": 32,
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.2,
    "context_length": 64,
    "prediction_length": 16,
    "max_prediction_length": 64,
    "quantile_levels": [0.1, 0.5, 0.9],
}


def register_small(weights_dir: Path) -> None:
    """Lists "small" in the catalogue, with weights from seed 1."""
    folder = weights_dir / "small"
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({k: v.contiguous() for k, v in tensors_of(build("temper-tiny", SMALL, seed=1)).items()})
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(SMALL))
    catalog.BACKBONES["small"] = dataclasses.replace(
        catalog.BACKBONES["temper-tiny"],
        name="small",
        sha256=hashlib.sha256(weights).hexdigest(),
        context_length=64,
        prediction_length=16,
        max_prediction_length=64,
        quantile_levels=(0.1, 0.5, 0.9),
    )


def run(folder: Path, backbone: str, method: str, out: int, task: str) -> None:
    """One run; writes a byte to `out` at every step and evaluated batch, then the artifact's digest."""
    torch.set_num_threads(1)
    catalog.BACKBONES["toy"] = dataclasses.replace(toy.register(folder / "weights"), tasks=catalog.TASKS)
    register_small(folder / "weights")
    settings = search.train_config

    def often(resolved: Mapping[str, Any], *, learning_rate: float) -> TrainConfig:
        """A checkpoint every seventh step, so that most kills lose some."""
        config = settings(resolved, learning_rate=learning_rate)
        return dataclasses.replace(config, checkpoint_every_steps=7, checkpoint_every_seconds=1e9)

    search.train_config = auto.train_config = often

    def tick() -> None:
        os.write(out, b".")

    asked = {
        "backbone": backbone,
        "method": {"type": "auto", "methods": ["linear_probe", "full"]} if method == catalog.AUTO else method,
        "prediction_length": 6,
        "task": task,
        "refit": task == "imputation",
        "hyperparameters": {"learning_rate": [1e-3, 3e-3], "max_epochs": 2, "batch_size": 16, "patience": 100},
        "seed": 5,
    }
    result = finetune.run(
        FinetuneRequest.from_mapping(asked),
        toy.frame(),
        weights_dir=folder / "weights",
        state_dir=folder / "state",
        out_dir=folder / "artifact",
        report=lambda progress: None,
        should_stop=tick,
    )
    os.write(out, result.digest.encode())
    if result.refit is not None:
        os.write(out, result.refit.digest.encode())


def watch(folder: Path, backbone: str, method: str, task: str, *, kill_after: int | None = None) -> tuple[int, str]:
    """(ticks, digest) of a run in a child process; killed with -9 at tick `kill_after`, and then without a digest."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            run(folder, backbone, method, writing, task)
            os._exit(0)
        finally:
            os._exit(1)  # never return into the parent's code
    os.close(writing)
    said = b""
    while chunk := os.read(reading, 1 if kill_after is not None else 4096):
        said += chunk
        if len(said) == kill_after:
            os.kill(child, signal.SIGKILL)
            break
    os.close(reading)
    _, status = os.waitpid(child, 0)
    expected = 0 if kill_after is None else -signal.SIGKILL
    assert os.waitstatus_to_exitcode(status) == expected, os.waitstatus_to_exitcode(status)
    ticks = len(said) - len(said.lstrip(b"."))
    return ticks, said[ticks:].decode()


def main(folder: Path, backbone: str, method: str, kills: list[float], task: str = "forecast") -> dict[str, Any]:
    if method != catalog.AUTO:
        methods.create(method, catalog.method(method).config())  # loads peft where the method needs it
    ticks, expected = watch(folder / "unbroken", backbone, method, task)
    killed = [max(2, int(share * ticks)) for share in kills]
    for kill_after in killed:
        watch(folder / "broken", backbone, method, task, kill_after=kill_after)
    left, found = watch(folder / "broken", backbone, method, task)
    return {"ticks": ticks, "expected": expected, "killed": killed, "left": left, "found": found}


if __name__ == "__main__":
    shares = [float(share) for share in sys.argv[4].split(",")]
    answer = main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], shares, *sys.argv[5:])
    sys.stdout.write(json.dumps(answer))
