"""The protocol behind the accuracy tables: borders, the few-shot part, the scaler, what is thinned and resumed."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import toy
from tests.architecture.repo import ROOT
from tests.data import data_path, data_root
from tests.tsfm.backbones.test_ttm import small
from tsfm import catalog
from tsfm.methods.base import Method


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """`bench("ltsf")` is that file as a module, imported as a run of it would."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module
    patch.undo()


def made(bench: Any, *, rows: int = 400, channels: int = 3) -> Any:
    """A set of 400 rows: train to 200, validation to 280, test to 400; a value says its channel and row."""
    values = np.arange(rows)[:, None] + 1_000 * np.arange(channels)
    return bench("ltsf").Standardised(
        name="made", values=values.astype(np.float32), train_end=200, test_start=280, test_end=400, sha256="0"
    )


def cut(bench: Any, **changes: Any) -> Any:
    ltsf = bench("ltsf")
    asked = {"context_length": 32, "prediction_length": 12, "caps": ltsf.Caps(train=0, validation=0), **changes}
    return ltsf.blocks(made(bench), **asked)


class TestBlocks:
    def test_training_windows_lie_inside_train_and_the_others_reach_back_for_context(self, bench: Any) -> None:
        found = cut(bench)
        assert (found.train.origin.min(), found.train.origin.max()) == (32, 200 - 12)
        assert (found.validation.origin.min(), found.validation.origin.max()) == (200, 280 - 12)
        assert (found.test.origin.min(), found.test.origin.max()) == (280, 400 - 12)
        assert found.test.num_windows == 3 * (120 - 12 + 1)

    def test_a_window_is_its_channel_s_values_as_they_are(self, bench: Any) -> None:
        windows = cut(bench).test
        batch = windows.batch([0, 4])
        assert batch.context[0, -1] == 279
        assert batch.target[1].tolist() == (1_000 + 281 + np.arange(12)).tolist()
        assert (batch.loc.tolist(), batch.scale.tolist()) == ([0, 0], [1, 1])

    def test_an_item_by_origin_is_all_its_channels(self, bench: Any) -> None:
        windows = cut(bench).train.by_origin()
        batch = windows.batch([5, 0])
        assert len(windows) * 3 == windows.num_windows
        assert batch.series.tolist() == [0, 1, 2, 0, 1, 2]
        assert batch.origin.tolist() == [37, 37, 37, 32, 32, 32]

    def test_few_shot_takes_the_first_rows_as_ibm_does(self, bench: Any) -> None:
        """evaluation.md §9: the first ⌊.05·(n_train − 512)⌋ + 512 rows."""
        rows = bench("ltsf").few_shot_rows
        assert rows(8_640, context_length=512, fraction=0.05) == 918
        assert rows(34_560, context_length=512, fraction=0.05) == 2_214
        assert rows(8_640, context_length=512, fraction=1.0) == 8_640
        few = cut(bench, fraction=0.1)
        assert few.train.origin.max() == 32 + int(0.1 * (200 - 32)) - 12
        assert few.test.num_windows == cut(bench).test.num_windows

    def test_strided_takes_every_kth_window_of_the_flattened_index(self, bench: Any) -> None:
        whole, some = cut(bench).train, cut(bench, fraction=0.25, mode="strided").train
        order = np.lexsort((whole.origin, whole.channel))[::4]
        expected = {(int(whole.channel[i]), int(whole.origin[i])) for i in order}
        assert set(zip(some.channel.tolist(), some.origin.tolist(), strict=True)) == expected
        with pytest.raises(AssertionError, match="strided"):
            some.by_origin()

    def test_caps_thin_origins_evenly_keep_all_channels_and_never_touch_test(self, bench: Any) -> None:
        found = cut(bench, caps=bench("ltsf").Caps(train=60, validation=30))
        assert found.train.num_windows <= 60
        assert (found.train.stride, found.validation.stride, found.test.stride) == (8, 7, 1)
        assert np.unique(np.diff(np.unique(found.train.origin))).tolist() == [8]
        assert np.bincount(found.train.channel).tolist() == [20, 20, 20]


class TestPublished:
    def test_the_scaler_knows_the_whole_train_split_and_nothing_else(self, bench: Any) -> None:
        data_path("ett/ETTh2.csv")
        data = bench("ltsf").standardised("ETTh2", data_root())
        assert (data.train_end, data.test_start, data.test_end) == (8_640, 11_520, 14_400)
        train = data.values[: data.train_end].astype(np.float64)
        assert np.abs(train.mean(0)).max() < 1e-5
        assert np.abs(train.std(0) - 1).max() < 1e-5
        assert np.abs(data.values[data.train_end :].mean(0)).max() > 0.1

    def test_zero_shot_is_the_figure_of_ibm_s_code_on_an_eighth_of_the_windows(self, bench: Any) -> None:
        """.3679 on every eighth origin; all of them give the published .363 (docs/benchmarks.md)."""
        data_path("ett/ETTh1.csv")
        data_path("ttm_r2_512_96/model.safetensors")
        ltsf, reproduce = bench("ltsf"), bench("reproduce")
        data = ltsf.standardised("ETTh1", data_root())
        found = ltsf.blocks(data, context_length=512, prediction_length=96, caps=ltsf.Caps())
        assert found.test.num_windows == 7 * 2_785
        model = reproduce.pretrained(catalog.backbone("ttm-r2"))
        assert ltsf.error_of(model, found.test.thinned(found.test.num_windows // 8 + 7)).mse == pytest.approx(
            0.3679, abs=0.001
        )


class TestRecipes:
    def test_full_and_sff_get_the_same_number_of_trials(self, bench: Any) -> None:
        listed = bench("recipes").recipes("ETTh1")
        assert len(listed["full"].trials) == len(listed["sff"].trials) == 6
        assert all(trial.options["alpha"] < 1 for trial in listed["sff"].trials)
        for field in ("epochs", "batch_size", "evaluations_per_epoch", "patience", "weight_decay"):
            assert getattr(listed["full"], field) == getattr(listed["sff"], field) == getattr(listed["trace"], field)

    def test_sff_s_own_schedule_gives_full_as_many_trials(self, bench: Any) -> None:
        listed = bench("recipes").recipes("ETTh1")
        sff, full = listed["sff, as published"], listed["full, as published"]
        assert [trial.options["alpha"] for trial in sff.trials] == [0.3, 0.5, 0.7, 0.9]
        assert len(full.trials) == len(sff.trials)
        assert full.trials[0].learning_rate == 3e-5
        config = sff.train_config(sff.trials[0], seed=0)
        assert (config.max_epochs, config.batch_size, config.warmup_fraction) == (10, 2_048, 0.0)

    def test_ibm_s_recipe_trains_decoder_and_head_under_its_dropout(self, bench: Any) -> None:
        model = small()
        method: Method = bench("recipes").create("head_decoder", {"head_dropout": 0.7}, seed=0)
        trained = {name.partition(".")[0] for name, _ in method.trainable_parameters(method.prepare(model))}
        assert trained == {"decoder", "head"}
        assert {module.p for name, module in model.named_modules() if name.endswith("dropout")} == {0.2, 0.7}
        assert bench("recipes").recipes("weather")["head_decoder"].trials[0].options == {"head_dropout": None}

    def test_options_of_every_trial_are_those_of_its_method(self, bench: Any) -> None:
        recipes = bench("recipes")
        with bench("trainers").listed():
            listed = [r for r in recipes.recipes("ETTh1").values() if r.method in catalog.METHODS]
            configs = [catalog.method(r.method).config(**trial.options) for r in listed for trial in r.trials]
        assert {"full", "sff", "linear_probe", "sam", "l2_sp"} <= {recipe.name for recipe in listed}
        assert len(configs) == sum(len(recipe.trials) for recipe in listed)


class TestCells:
    @pytest.fixture
    def small_bench(self, bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """`cells(…)` runs two methods and seeds of the toy on a made set of noise, and answers the lines so far."""
        reproduce, ltsf = bench("reproduce"), bench("ltsf")
        recipe = bench("recipes").Recipe
        trials = bench("recipes").rates(1e-3, 3e-3)
        quick = {
            "zero_shot": recipe(name="zero_shot", method="zero_shot"),
            "full": recipe(name="full", method="full", trials=trials, epochs=1),
        }
        data = made(bench)
        noise = np.random.default_rng(0).standard_normal(data.values.shape).astype(np.float32)
        made_set = ltsf.replace(data, values=noise)
        monkeypatch.setattr(reproduce, "recipes", lambda _: quick)
        monkeypatch.setattr(ltsf, "standardised", lambda *_: made_set)
        monkeypatch.setenv("TEMPER_WEIGHTS_DIR", str(tmp_path))
        words = ["--backbone", "toy", "--methods", *quick, "--horizon", "12", "--fraction", "1", "--seeds", "0", "1"]
        words += ["--train-windows", "90", "--validation-windows", "30", "--results", str(tmp_path)]

        def cells(*more: str) -> list[dict[str, Any]]:
            monkeypatch.setattr(sys, "argv", ["reproduce.py", *words, *more])
            before = torch.get_num_threads()
            reproduce.main()
            torch.set_num_threads(before)
            torch.set_flush_denormal(False)
            return [json.loads(line) for line in (tmp_path / "reproduce.jsonl").read_text().splitlines()]

        with toy.registered(tmp_path):
            yield cells

    def test_a_second_run_adds_nothing_and_other_seeds_take_the_first_one_s_pick(self, small_bench: Any) -> None:
        first = small_bench()
        assert [(line["method"], line["seed"]) for line in first] == [("zero_shot", 0), ("full", 0), ("full", 1)]
        _, full, other = first
        assert len(full["trials"]) == 2
        lowest = min(full["trials"], key=lambda t: t["validation_mse"])
        assert full["trial"]["learning_rate"] == lowest["learning_rate"]
        assert other["trial"] == full["trial"]
        assert full["best_epoch"]["epoch"] == 1
        assert "best_epoch" not in other
        assert full["mse"] != other["mse"]
        assert small_bench() == first
        assert small_bench("--context", "32") == first, "the backbone's own"

    def test_a_shorter_context_is_another_cell_and_a_longer_one_is_refused(
        self, small_bench: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--methods", "zero_shot", "--fraction-mode", "strided", "--fraction", "0.25")
        whole, short = small_bench(*words)[0], small_bench(*words, "--context", "24")[1]
        assert "context" not in whole
        assert short["context"] == 24
        assert short["mse"] != whole["mse"]
        assert "toy, context 24, horizon 12, 25% of train (strided)" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            small_bench("--context", "33")


def test_published_figures_stand_beside_their_own_protocol_only(bench: Any) -> None:
    table = bench("reproduce_table").tables
    cell = {
        "backbone": "timer-v1-forecast",
        "set": "ETTh1",
        "horizon": 96,
        "fraction": 0.25,
        "fraction_mode": "strided",
    }
    line = {**cell, "method": "sff, as published", "seed": 0, "mse": 0.35}
    assert "| SFF's authors, `sff` |  | 0.35060 |" in table([line])
    for change in ({"fraction_mode": "first"}, {"horizon": 48}, {"fraction": 0.05}, {"backbone": "timer-84m"}):
        assert "SFF's authors" not in table([{**line, **change}])


def test_a_win_is_a_mean_of_five_seeds_below_every_bar_by_a_standard_error(bench: Any) -> None:
    table = bench("reproduce_table")
    values = [0.360, 0.361, 0.359, 0.360, 0.360]
    assert "**wins**" in table.won(values, {"zero-shot": 0.3628})
    assert "does not win" in table.won(values, {"zero-shot": 0.3628, "IBM": 0.3602})
    assert "not judged" in table.won(values[:4], {"zero-shot": 0.3628})
    lines = [{"seed": seed, "mse": value} for seed, value in enumerate(values)]
    worse = [{"seed": line["seed"], "mse": line["mse"] + 0.01} for line in lines]
    assert table.against(lines, lines[::-1]).startswith("tie")
    assert table.against(lines, worse).startswith("below")
