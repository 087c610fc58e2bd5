"""DSIC on planted tasks: the one module through which a task can be solved is ranked first, and stays alone."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.architecture.repo import ROOT
from tsfm.backbones.base import Batch
from tsfm.methods.adapters import attach, body_targets
from tsfm.methods.dsic import importance, simulated_masks
from tsfm.methods.gates import Gates


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("dsic")
    patch.undo()


def test_the_planted_module_is_ranked_first_in_nine_of_ten_seeds(bench: ModuleType) -> None:
    found = [bench.tuned(bench.Branches, seed=seed, selection="dsic", num_kept=1) for seed in range(10)]
    first = [run for run in found if run.rank == 1]
    assert len(first) >= 9, [run.rank for run in found]
    assert all(run.kept and run.missed < 0.7 for run in first), "what is kept has learnt the task"


def test_importance_follows_its_module_to_another_place(bench: ModuleType) -> None:
    """The same branches in another order, masked in that order: the same importances in that order."""
    order = [3, 1, 7, 0, 5, 2, 6, 4]
    task = bench.planted(bench.Branches, 1)
    rows, width = task.validation, bench.WIDTH
    moved = bench.Branches.from_config({}, seed=2)
    with torch.no_grad():
        for place, source in enumerate(order):
            moved.modules_[place].load_state_dict(task.network.modules_[source].state_dict())
            columns = slice(source * width, (source + 1) * width)
            moved.readout.weight[:, place * width : (place + 1) * width] = task.network.readout.weight[:, columns]
        moved.readout.bias.copy_(task.network.readout.bias)
    context = rows.context.view(len(rows), -1, width)[:, order].flatten(1)
    masks = simulated_masks(8, 4, num_draws=8, rng=np.random.default_rng(0))
    found = []
    for network, given, places, hidden in (
        (task.network, rows.context, list(range(8)), masks),
        (moved, context, order, masks[:, order]),
    ):
        modules = attach(network, targets=body_targets(network), rank=2, alpha=4.0, dropout=0.0)
        gates = Gates(modules, trained=True)
        for module, source in zip(gates.modules, places, strict=True):
            generator = torch.Generator().manual_seed(source)
            for linear in (module.lora_A, module.lora_B):
                torch.nn.init.normal_(linear.weight, generator=generator)
        batch = Batch(context=given, target=rows.target)
        found.append(importance(gates.measure(network, [batch], hidden, form="taylor"), hidden))
    np.testing.assert_allclose(found[1], found[0][order], rtol=1e-4)
