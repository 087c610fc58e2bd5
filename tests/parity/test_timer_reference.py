"""Timer-84M against sktime's copy of THUML's code (the extra "parity") at random tiny sizes.

The layout of the first Timer has no installable reference: golden sets alone (test_timer.py).
"""

import importlib
import random
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.golden import assert_equal
from tsfm.backbones.base import Batch
from tsfm.backbones.timer import Timer

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    pytest.importorskip("sktime.libs.timer", reason="sktime is not installed: pip install -e '.[parity]'")
    return importlib.import_module("sktime.libs.timer.modeling_timer")


def sizes(seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    heads, patch = draw.choice([1, 2, 4]), draw.choice([4, 8, 12])
    return {
        "input_token_len": patch,
        "output_token_lens": [patch],
        "hidden_size": heads * draw.choice([4, 8, 12]),
        "intermediate_size": draw.choice([8, 20, 33]),
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "hidden_act": "silu",
        "rope_theta": draw.choice([100, 10_000]),
    }


def pair(reference: ModuleType, seed: int) -> tuple[Timer, Any]:
    """Ours and theirs, with the same random weights."""
    config = sizes(seed)
    theirs = reference.TimerForPrediction(reference.TimerConfig(**config)).eval().requires_grad_(False)
    ours = Timer.from_config(config, seed=seed).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def windows(count: int, length: int, seed: int) -> Tensor:
    walk = torch.randn(count, length, generator=torch.Generator().manual_seed(seed)).cumsum(1)
    return 50 + 3 * walk


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_and_a_rollout(seed: int, reference: ModuleType) -> None:
    ours, theirs = pair(reference, seed)
    p = ours.patch_length
    x = windows(3, 5 * p, seed)
    grown = x
    for _ in range(3):
        grown = torch.cat([grown, theirs(input_ids=grown, revin=True, use_cache=False).logits], dim=1)
    said = ours.predict(x, 3 * p).point
    assert_equal(said, grown[:, 5 * p :].numpy(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_padding_is_their_attention_mask(seed: int, reference: ModuleType) -> None:
    ours, theirs = pair(reference, seed)
    p = ours.patch_length
    z = windows(3, 6 * p, seed) / 10 - 5
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, :2], padding[2, :5] = True, True
    hidden = theirs.model(input_ids=z, attention_mask=(~padding).long(), use_cache=False).last_hidden_state
    said = ours.hidden(z.unflatten(1, (-1, p)), padding)
    assert_equal(said[~padding], hidden[~padding].numpy(), **TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_every_token(seed: int, reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions of transformers put a function of their own in the place of the reference's squared error."""
    ours, theirs = pair(reference, seed)
    errors = staticmethod(lambda said, true: (said - true).square())
    monkeypatch.setattr(reference.TimerForPrediction, "loss_function", errors)
    p = ours.patch_length
    x = windows(3, 6 * p, seed)
    location, scale = ours.location_and_scale(x[:, :-p], torch.ones(3, 5 * p, dtype=torch.bool))
    z = (x - location) / scale
    expected = theirs(input_ids=z[:, :-p], labels=z[:, p:], use_cache=False).loss
    said = ours.loss(Batch(context=z[:, :-p], target=z[:, -p:]))
    assert_equal(said, expected.numpy(), **TOLERANCE)
