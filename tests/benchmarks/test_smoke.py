"""Every benchmark at a miniature size: that it runs and compares like with like. No timing is judged here."""

import argparse
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from tests.architecture.repo import ROOT
from tests.data import data_path, data_root

FOLDER = ROOT / "benchmarks"
HELPERS = {
    "__main__",
    "anomaly_baselines",
    "anomaly_metrics",
    "anomaly_sets",
    "anomaly_table",
    "bootstrap",
    "common",
    "sets",
    "trainers",
    "ltsf",
    "recipes",
    "reproduce_table",
    "planted",
    "references",
    "backbones_table",
}
Bench = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """`bench("training")` is that file as a module, imported as a run of it would."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(FOLDER))
    yield import_module
    patch.undo()


@pytest.fixture(scope="module")
def live(bench: Bench) -> Iterator[Any]:
    with bench("common").service(TEMPER_FORECAST_THREADS="1", TEMPER_PRELOAD="temper-tiny") as running:
        yield running


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**values)


def test_both_training_loops_end_with_the_same_weights(bench: Bench) -> None:
    asked = options(methods=["sff"], steps=3, rounds=1, batch_size=2, threads=0)
    (row,) = bench("training").measure(asked)
    assert row.figure > 0
    assert row.details["largest_weight_difference"] <= 1e-6


def test_methods_take_turns_step_by_step(bench: Bench) -> None:
    bench_methods = bench("methods")
    asked = options(backbone="temper-tiny", methods=["linear_probe"], steps=2, rounds=1, batch_size=2)
    (row,) = bench_methods.measure(asked)
    assert 0 < row.figure < 2
    order: list[int] = []
    turns = bench_methods.Turns(3)

    def walk(place: int, steps: int) -> None:
        turns.wait(place)
        for _ in range(steps):
            order.append(place)
            turns.next(place)
        turns.leave(place)

    threads = [threading.Thread(target=walk, args=(place, steps)) for place, steps in ((0, 3), (1, 1), (2, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 0, 2, 0, 2]


def test_a_landscape_of_starting_points(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_path("ett/ETTh1.csv")
    monkeypatch.setenv("TEMPER_DATA", str(data_root()))
    asked = options(
        backbone="temper-tiny",
        set_name="ETTh1",
        alphas=[0.9],
        initialisations=["backbone"],
        windows=1,
        probes=16,
        seed=0,
        units="windows",
        surface=False,
        plot=None,
    )
    rows = bench("landscape").measure(asked)
    assert [row.question.split(", ")[2] for row in rows] == ["pretrained: largest Hessian eigenvalue", "α = 0.9"]
    assert "| pretrained | " in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_both_readers_of_a_file_find_the_same_points(bench: Bench, layout: str) -> None:
    asked = options(megabytes=0.2, rounds=1, layouts=[layout], no_service=True)
    row = bench("ingestion").measure(asked)[0]
    assert row.details["ours"][0]["rows"] == row.details["baseline"][0]["rows"] > 1000


def test_ingestion_through_a_live_service(bench: Bench, live: Any, tmp_path: Path) -> None:
    ingestion = bench("ingestion")
    path = tmp_path / "long.csv"
    ingestion.generate(path, "long", 0.2)
    speed, growth = ingestion.through_the_service(live, path, 1.0)
    assert speed.figure > 0
    assert growth.unit == "MB"


def test_an_upload_is_stored_whole(bench: Bench, live: Any) -> None:
    upload = bench("upload")
    peak, *_ = upload.streamed(live, 3_000_000, 1.0)
    assert peak.figure > 10


def test_forecasts_are_measured(bench: Bench, live: Any) -> None:
    forecast = bench("forecast")
    model = forecast.load_backbone(forecast.catalog.backbone("temper-tiny"))
    assert forecast.latency(live, model, 2)[0].details["requests"] == 2
    row = forecast.saturation(live, model, 32, 2, options(rounds=1, seconds=0.5))
    assert row.details["ours"][0] > 0
    assert row.bar == 1.4


def test_starts_are_measured(bench: Bench) -> None:
    startup = bench("startup")
    (row,) = startup.measure(options(rounds=1, programs=["the command"], no_serve=True))
    assert row.details["loaded"] == []
    assert row.figure > 0


def test_calibration_measures_every_way_on_the_same_windows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_path("ett/ETTh1.csv")
    calibration = bench("calibration")
    monkeypatch.setattr(calibration.os, "nice", lambda _: 10)
    asked = options(
        sets=["ETTh1"], models=["temper-tiny"], states=["zero-shot"], windows=40, train_windows=8, selection_windows=8
    )
    rows = calibration.measure(asked)
    assert [row.unit for row in rows] == ["points"] * 4 + ["×"]
    cell = rows[0].details["cells"]["ETTh1"]
    assert cell["num_windows"]["test"] <= 40
    for way in calibration.WAYS:
        assert cell[way]["pinball"] > 0
        assert 50 < cell[way]["coverage"]["80"] <= 100
    assert "| temper-tiny zero-shot | ETTh1 |" in capsys.readouterr().out


def test_sff_gets_as_many_trials_as_its_rivals_and_skips_what_is_done(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_path("ett/ETTh1.csv")
    monkeypatch.setenv("TEMPER_DATA", str(data_root()))
    sff = bench("sff")
    monkeypatch.setattr(sff.os, "nice", lambda _: 10)
    asked = options(
        sets=["ETTh1"],
        seeds=[0],
        contenders=["full", "sff, alpha picked"],
        epochs=1,
        batch_size=4,
        train_windows=4,
        validation_windows=8,
        test_windows=8,
        cells=tmp_path / "cells.jsonl",
    )
    rows = sff.measure(asked)
    cells = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [len(cell["trials"]) for cell in cells if "trials" in cell] == [3, 3]
    assert all(trial["alpha"] < 1 for trial in cells[-1]["trials"])
    assert [row.figure for row in rows] == [row.figure for row in sff.measure(asked)]
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == len(cells)
    assert "| zero_shot |" in capsys.readouterr().out


def test_planted_jobs_are_judged_once(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = bench("gate")
    monkeypatch.setattr(gate, "LENGTH", 300)
    asked = options(kinds=["pattern", "noise"], jobs=1, half_jobs=0, epochs=1, cells=tmp_path / "cells.jsonl")
    rows = gate.measure(asked)
    assert [(row.unit, len(row.details["jobs"])) for row in rows] == [("%", 1), ("%", 1)]
    assert gate.measure(asked) == rows
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 2


def test_backbones_are_measured_beside_a_reference_and_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, with our own network as its own reference."""
    backbones, references = bench("backbones"), bench("references")

    def itself(implementation: str, config: dict[str, Any], *, horizon: int) -> Any:
        network = backbones.implementation(backbones.catalog.backbone("units-x32")).from_config(config, seed=0)

        def loss(context: Tensor, target: Tensor) -> Tensor:
            lost: Tensor = network.loss(backbones.Batch(context=context, target=target))
            return lost

        return references.Reference(
            package="itself",
            network=network,
            forward=lambda context: network.predict(context, horizon).point,
            loss=loss,
            narrower={"all of it": loss},
        )

    def here(part: str, name: str, asked: argparse.Namespace, *, batch: int) -> dict[str, Any]:
        measured: dict[str, Any] = backbones.PARTS[part](
            backbones.catalog.backbone(name), options(**{**vars(asked), "batch": batch})
        )
        return measured

    monkeypatch.setattr(backbones, "CONTEXT", 64)
    monkeypatch.setattr(backbones, "SHORT_SECONDS", 0.0)
    monkeypatch.setattr(backbones, "reference", itself)
    monkeypatch.setattr(backbones, "in_process", here)
    asked = options(
        backbones=["units-x32"],
        size="tiny",
        rounds=1,
        seconds=60.0,
        step_seconds=60.0,
        threads=0,
        cells=tmp_path / "cells.jsonl",
        table=False,
    )
    rows = backbones.measure(asked)
    asked_of = [row.question.split(": ")[1].split(" ÷ ")[0].split(", ") for row in rows]
    assert [words[0] for words in asked_of] == ["forecast", "forecast", "training step", "training step"]
    assert asked_of[3][2:] == ["all of it"]
    assert all(row.figure > 0 and row.bar == 1.0 for row in rows)
    (cell,) = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert cell["times"]["trainable"]["trace"] < cell["times"]["trainable"]["full"] < cell["times"]["parameters"]
    assert backbones.measure(asked) == rows
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 1
    table = capsys.readouterr().out
    assert "| units-x32 (tiny) | itself |" in table
    assert "; all of it **" in table


def test_a_reference_that_memory_is_denied_leaves_its_time_open(bench: Bench) -> None:
    backbones, asked = bench("backbones"), options(rounds=2, seconds=60.0)

    def too_large() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    def broken() -> None:
        raise RuntimeError("shapes do not match")

    alone = backbones.in_turns(lambda: None, too_large, asked)
    assert alone["reference_too_large"]
    assert "ratio" not in alone
    assert bench("backbones_table")._ratio(alone) == "too large"
    with pytest.raises(RuntimeError, match="shapes"):
        backbones.in_turns(lambda: None, broken, asked)


def test_a_reference_that_is_not_there_says_why(bench: Bench) -> None:
    references = bench("references")
    with pytest.raises(references.AbsentReference, match="GitHub only"):
        references.reference("units:UniTS", {}, horizon=96)


def test_what_seeds_cannot_tell_apart_is_a_tie(bench: Bench) -> None:
    sff = bench("sff")
    assert sff.told_apart([-0.1, -0.11, -0.09, -0.1]) == "better"
    assert sff.told_apart([0.1, 0.11, 0.09, 0.1]) == "worse"
    assert sff.told_apart([-0.1, 0.1, -0.2, 0.1]) == "tie"


def test_every_file_is_a_benchmark_or_a_helper(bench: Bench) -> None:
    names = subprocess.run([sys.executable, str(FOLDER), "--list"], capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in names.stdout.splitlines()}
    assert listed == {path.stem for path in FOLDER.glob("*.py")} - HELPERS
    unknown = subprocess.run([sys.executable, str(FOLDER), "speed"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "no benchmark named 'speed'" in unknown.stderr


def test_a_table_says_whether_a_bar_is_met(bench: Bench) -> None:
    common = bench("common")
    slow = common.Row(question="speed", figure=0.9, unit="×", bar=0.95, higher_is_better=True)
    lean = common.Row(question="memory", figure=299.0, unit="MB", bar=300)
    bare = common.Row(question="start", figure=1.5, unit="s")
    assert (slow.met, lean.met, bare.met) == (False, True, None)
    lines = common.table([slow, lean, bare]).splitlines()
    assert lines[2].endswith("| **0.900 ×** | ≥ 0.95 × | **no** |")
    assert lines[3].endswith("| **299 MB** | ≤ 300 MB | yes |")
    assert lines[4].endswith("| **1.500 s** |  |  |")


def test_several_benchmarks_run_in_one_command_with_the_options_that_follow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("bench_main", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    bench("common")  # what it imports is found from here on
    spec.loader.exec_module(command)
    ran: list[tuple[str, list[str]]] = []

    def one(name: str, given: list[str]) -> int:
        ran.append((name, given))
        return len(ran) - 1

    monkeypatch.setattr(command, "one", one)
    assert command.main(["anomaly", "imputation", "--fresh", "--full"]) == 1, "the second one failed"
    assert ran == [(name, ["--fresh", "--full"]) for name in ("anomaly", "imputation")]
    assert command.main(["anomalies"]) == 2
    assert "no benchmark named 'anomalies'" in capsys.readouterr().err
