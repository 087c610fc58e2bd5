"""What is particular to both layouts of Timer. The contract: test_contract*.py; equality with THUML: tests/parity."""

import pytest
import torch
from torch import Tensor

from tsfm.backbones.base import Batch
from tsfm.backbones.next_patch import NextPatch
from tsfm.backbones.timer import Timer
from tsfm.backbones.timer_v1 import TimerV1, sinusoids
from tsfm.errors import ConfigError

HUB = {
    "input_token_len": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "context_length": 64,
}
FIRST = {"patch_len": 8, "d_model": 16, "d_ff": 24, "e_layers": 2, "n_heads": 2, "context_length": 64}
P = 8
NAN = torch.nan
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
both = pytest.mark.parametrize("layout", [Timer, TimerV1])


def small(layout: type[NextPatch], **changes: object) -> NextPatch:
    return layout.from_config({**(HUB if layout is Timer else FIRST), **changes}, seed=0).eval()


def sines(count: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.sin(torch.arange(length) / 3) + 0.3 * torch.randn(count, length, generator=generator)


def loss(model: NextPatch, context: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return model.loss(Batch(context=context, target=target))


@both
class TestWindows:
    def test_an_oldest_patch_that_is_not_full_is_dropped(self, layout: type[NextPatch]) -> None:
        model, x = small(layout), sines(3, 3 * P + 5)
        whole = model.predict(x[:, 5:], P).point
        torch.testing.assert_close(model.predict(x, P).point, whole, **CLOSE)
        later = x.clone()
        later[:, : 5 + 3] = NAN
        torch.testing.assert_close(model.predict(later, P).point, model.predict(x[:, 5 + P :], P).point, **CLOSE)

    def test_less_than_a_patch_is_one_patch(self, layout: type[NextPatch]) -> None:
        """What stands before its first value repeats that value, and does not count for location and scale."""
        model, x = small(layout), sines(2, 3)
        patches = model.patches(x)
        assert patches.padding.tolist() == [[False]] * 2
        assert torch.equal(patches.values[:, 0, : P - 3], patches.values[:, 0, P - 3 :][:, :1].expand(-1, P - 3))
        assert torch.equal(patches.location[:, 0], x.sum(1) / 3)

    def test_values_of_a_dropped_patch_locate_a_row_that_has_no_others(self, layout: type[NextPatch]) -> None:
        x = torch.full((1, 3 * P), NAN)
        x[0, 3] = 40.0
        said = small(layout).predict(x, P).point
        assert (said - 40).abs().max() < 10

    def test_gaps_are_lines_and_do_not_move_the_location(self, layout: type[NextPatch]) -> None:
        model, x = small(layout), torch.arange(3.0 * P)[None] / 4
        gap = x.clone()
        gap[0, P + 2 : P + 6] = NAN
        patches = model.patches(gap)
        assert patches.seen.sum() == 3 * P - 4
        torch.testing.assert_close(patches.location[0, 0], gap.nanmean())
        line = patches.values.flatten(1) * patches.scale + patches.location
        torch.testing.assert_close(line, x, **CLOSE)

    def test_the_grown_window_is_normalised_as_a_whole_again(self, layout: type[NextPatch]) -> None:
        model, x = small(layout), sines(2, 4 * P)
        native = model.predict(x, P).point
        rest = model.predict(torch.cat([x, native], dim=1), 3).point
        assert torch.equal(model.predict(x, P + 3).point, torch.cat([native, rest], dim=1))

    def test_a_token_sees_nothing_of_its_future(self, layout: type[NextPatch]) -> None:
        model, x = small(layout), sines(2, 4 * P).unflatten(1, (-1, P))
        padding = torch.zeros(2, 4, dtype=torch.bool)
        other = x.clone()
        other[:, 2:] += 1
        said, changed = (model.tokens(patches, padding) for patches in (x, other))
        assert torch.equal(said[:, :2], changed[:, :2])
        assert (said[:, 2:] - changed[:, 2:]).abs().amin(1).max() > 1e-3

    def test_the_last_token_says_alone_what_it_says_among_all(self, layout: type[NextPatch]) -> None:
        patches = small(layout).patches(torch.cat([torch.full((2, P + 3), NAN), sines(2, 4 * P)], dim=1))
        every, last = (small(layout).tokens(patches.values, patches.padding, last=alone) for alone in (False, True))
        torch.testing.assert_close(last, every[:, -1:], **CLOSE)


@both
class TestLoss:
    def test_below_one_patch_the_target_alone_counts(self, layout: type[NextPatch]) -> None:
        model, x, target = small(layout), sines(3, 4 * P), sines(3, 5, seed=1)
        said = model.predict(x, 5).point
        torch.testing.assert_close(loss(model, x, target), (said - target).square().mean(), **CLOSE)

    def test_every_token_counts_from_one_patch_on_unless_the_target_is_asked(self, layout: type[NextPatch]) -> None:
        x, target = sines(3, 4 * P), sines(3, P, seed=1)
        model = small(layout)
        patches = model.patches(x)
        said = model.after_each(patches.values, patches)
        after = torch.cat([x.unflatten(1, (-1, P))[:, 1:], target[:, None]], dim=1)
        torch.testing.assert_close(loss(model, x, target), (said - after).square().mean(), **CLOSE)
        only = small(layout, loss_tokens="target")
        torch.testing.assert_close(loss(only, x, target), (said[:, -1] - target).square().mean(), **CLOSE)

    def test_missing_points_of_the_context_are_no_targets(self, layout: type[NextPatch]) -> None:
        x, target = sines(1, 3 * P), sines(1, P, seed=1)
        x[0, P : 2 * P] = NAN
        model = small(layout)
        patches = model.patches(x)
        said = model.after_each(patches.values, patches)
        errors = torch.cat([said[:, 1] - x[:, 2 * P :], said[:, 2] - target])
        torch.testing.assert_close(loss(model, x, target), errors.square().mean(), **CLOSE)

    def test_padding_says_nothing_that_counts(self, layout: type[NextPatch]) -> None:
        model, x, target = small(layout), sines(2, 3 * P), sines(2, P, seed=1)
        padded = torch.cat([torch.full((2, 2 * P + 3), NAN), x], dim=1)
        torch.testing.assert_close(loss(model, padded, target), loss(model, x, target), **CLOSE)

    def test_a_longer_target_is_read_by_its_true_values(self, layout: type[NextPatch]) -> None:
        model, x, target = small(layout, loss_tokens="target"), sines(2, 3 * P), sines(2, P + 3, seed=1)
        patches = model.patches(x)
        first = (target[:, :P] - patches.location) / patches.scale
        shown = torch.cat([patches.values, first[:, None]], dim=1)
        said = model.tokens(shown, torch.zeros(2, 4, dtype=torch.bool))[:, 2:].flatten(1)[:, : P + 3]
        error = said * patches.scale + patches.location - target
        torch.testing.assert_close(loss(model, x, target), error.square().mean(), **CLOSE)

    def test_windows_count_by_their_observed_targets(self, layout: type[NextPatch]) -> None:
        model, x, target = small(layout), sines(3, 3 * P), sines(3, P, seed=1)
        target[0], target[1, 2:] = NAN, NAN
        alone = [loss(model, x[i : i + 1], target[i : i + 1]) for i in (1, 2)]
        torch.testing.assert_close(loss(model, x, target), (2 * alone[0] + P * alone[1]) / (2 + P), **CLOSE)


@both
class TestConfig:
    def test_a_context_is_whole_patches_of_what_the_publication_takes(self, layout: type[NextPatch]) -> None:
        unsaid = {
            name: value for name, value in (HUB if layout is Timer else FIRST).items() if name != "context_length"
        }
        limit = 2_880 if layout is Timer else 672
        assert layout.from_config(unsaid, seed=0).context_length == limit
        odd = {"input_token_len": 20} if layout is Timer else {"patch_len": 20}
        assert layout.from_config({**unsaid, **odd}, seed=0).context_length == limit // 20 * 20

    def test_what_was_never_published_is_refused(self, layout: type[NextPatch]) -> None:
        changes: list[dict[str, object]] = [{"context_length": 60}]
        if layout is Timer:
            changes += [{"hidden_size": 15}, {"hidden_act": "relu"}, {"output_token_lens": [8, 16]}]
        else:
            changes += [{"d_model": 15}, {"activation": "relu"}]
        for change in changes:
            with pytest.raises(ConfigError):
                small(layout, **change)
        patch = "input_token_len" if layout is Timer else "patch_len"
        with pytest.raises(ConfigError, match=patch):
            layout.from_config({}, seed=0)


class TestFirst:
    def test_positions_begin_where_the_row_does(self) -> None:
        model = small(TimerV1)
        assert isinstance(model, TimerV1)
        patches, padding = sines(2, 4 * P).unflatten(1, (-1, P)), torch.zeros(2, 4, dtype=torch.bool)
        padding[1, :2] = True
        embedded = model.embedded(patches, padding)
        alone = model.embedded(patches[1:, 2:], padding[1:, 2:])
        torch.testing.assert_close(embedded[1:, 2:], alone, **CLOSE)
        assert torch.equal(embedded[:1], model.embedded(patches[:1], padding[:1]))

    def test_sinusoids_alternate_from_fast_to_slow(self) -> None:
        table = sinusoids(3, 4, device=torch.device("cpu"))
        slow = torch.tensor([0.0, 0.01, 0.02])
        expected = torch.stack([torch.arange(3.0).sin(), torch.arange(3.0).cos(), slow.sin(), slow.cos()], dim=1)
        torch.testing.assert_close(table, expected)

    def test_the_published_file_s_names_and_kernels(self) -> None:
        model = small(TimerV1)
        stored = {f"model.{name}": t for name, t in model.state_dict().items()}
        for name, t in list(stored.items()):
            if name.endswith(("conv1.weight", "conv2.weight")):
                stored[name] = t[..., None]
        stored["model.patch_embedding.position_embedding.pe"] = torch.zeros(1, 5000, 16)
        model.load_state_dict(TimerV1.published_tensors(stored), strict=True)
        again = TimerV1.published_tensors(model.state_dict())
        assert {name: t.shape for name, t in again.items()} == {n: t.shape for n, t in model.state_dict().items()}

    def test_dropout_acts_in_training_only(self) -> None:
        model, x, target = small(TimerV1), sines(2, 3 * P), sines(2, P, seed=1)
        assert torch.equal(loss(model, x, target), loss(model, x, target))
        model.train()
        assert not torch.equal(loss(model, x, target), loss(model, x, target))

    def test_imputation_leaves_what_is_seen_and_lines_what_nothing_comes_before(self) -> None:
        model, x = small(TimerV1), sines(2, 4 * P + 3)
        assert isinstance(model, TimerV1)
        x[0, 2 * P : 3 * P] = NAN
        x[1, 1:3] = NAN
        x[1, P + 3 + 2] = NAN
        filled = model.impute(x)
        seen = ~x.isnan()
        assert filled.shape == x.shape
        assert torch.equal(filled[seen], x[seen])
        assert filled.isfinite().all()
        line = x[1, 0] + (x[1, 3] - x[1, 0]) * torch.tensor([1 / 3, 2 / 3])
        torch.testing.assert_close(filled[1, 1:3], line, **CLOSE)
