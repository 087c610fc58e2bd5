"""`temper backbones`: the weights folder of this machine, without a service."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import toy
from tests.app.cli.command import temper
from tests.hub import COMMIT, Hub, serving
from tsfm import catalog
from tsfm.backbones import shelf


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home, and "toy" in the catalogue: published without a digest under a licence that forbids commerce."""
    monkeypatch.delenv("TEMPER_WEIGHTS_DIR", raising=False)
    with toy.registered(tmp_path / "given") as spec:
        catalog.BACKBONES["toy"] = dataclasses.replace(
            spec, sha256=None, repo="toys/toy", revision="main", licence="CC-BY-NC-4.0", non_commercial=True
        )
        yield tmp_path / "home"


def test_add_shows_the_licence_and_asks_for_it_then_pins(home: Path, tmp_path: Path) -> None:
    given = str(tmp_path / "given" / "toy")
    refused = temper("backbones", "add", "toy", "--path", given, "--home", str(home))
    assert refused.exit_code == 1
    assert "CC-BY-NC-4.0: not for commercial use" in refused.err
    done = temper("backbones", "add", "toy", "--path", given, "--accept-license", "--home", str(home), "--json")
    assert done.exit_code == 0, done.err
    assert done.json["weights_available"] is True
    assert done.json["digest"] == "sha256:" + done.json["weights"]["lock"]["sha256"]
    shown = temper("backbones", "show", "toy", "--home", str(home))
    assert done.json["digest"] in shown.out
    assert "not for commercial use" in shown.out


def test_pull_fetches_and_says_where(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = tmp_path / "given" / "toy"
    files = {name: (given / name).read_bytes() for name in ("model.safetensors", "config.json")}
    with serving(Hub(repo="toys/toy", files=files, revision="v1")) as hub:
        monkeypatch.setattr(shelf, "pull", functools.partial(shelf.pull, endpoint=hub.url))
        asked = ("backbones", "pull", "toy", "--revision", "v1", "--accept-license", "--home", str(home))
        done = temper(*asked)
        assert done.exit_code == 0, done.err
        assert str(home / "weights" / "toy") in done.err
    lock = json.loads((home / "weights" / "toy" / "temper.json").read_text())
    assert (lock["commit"], lock["revision"], lock["licence_accepted"]) == (COMMIT, "v1", True)


def test_what_is_not_here_says_how_to_get_it(home: Path) -> None:
    shown = temper("backbones", "show", "toy", "--home", str(home))
    assert "temper backbones pull toy --accept-license" in shown.out
    unknown = temper("backbones", "pull", "nobody", "--home", str(home))
    assert (unknown.exit_code, "Known: " in unknown.err) == (1, True)
