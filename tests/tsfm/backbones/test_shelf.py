"""Weights on the shelf: fetched or added, checked strictly, pinned; and every way in which they are not."""

import argparse
import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests import toy
from tests.hub import COMMIT, STORE, Hub, serving
from tsfm.backbones import hub as hubs
from tsfm.backbones import shelf
from tsfm.backbones.convert import tensors_from_pickle
from tsfm.backbones.hub import Download
from tsfm.backbones.places import LOCK, find_weights, read_lock
from tsfm.backbones.shelf import Consent
from tsfm.backbones.weights import load_backbone, pretrained, tensors_of
from tsfm.catalog import BackboneSpec
from tsfm.errors import WeightsError
from tsfm.tasks.forecast import Forecaster

ME = Consent(by="test")
CONFIG = json.dumps(toy.CONFIG).encode()


def tensors(seed: int = 1) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in tensors_of(toy.Toy.from_config(toy.CONFIG, seed=seed)).items()}


def published(seed: int = 1) -> bytes:
    return save(tensors(seed))


def unpinned() -> BackboneSpec:
    """A published backbone whose digest nobody of the project knows."""
    return dataclasses.replace(toy.spec("0" * 64), sha256=None, repo="toys/toy", revision="main")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(repo="toys/toy", files={"model.safetensors": published(), "config.json": CONFIG})) as found:
        yield found


def folder_of(path: Path, *, weights: bytes | None = None) -> Path:
    path.mkdir()
    (path / "model.safetensors").write_bytes(weights or published())
    (path / "config.json").write_bytes(CONFIG)
    return path


class TestPull:
    def test_the_first_copy_is_pinned_by_its_digest_and_commit(self, tmp_path: Path, hub: Hub) -> None:
        seen: list[Download] = []
        placed = shelf.pull(unpinned(), tmp_path, ME, watch=seen.append, endpoint=hub.url)
        assert placed.digest == "sha256:" + hashlib.sha256(published()).hexdigest()
        lock = read_lock(tmp_path / "toy")
        assert (lock["commit"], lock["revision"], lock["sha256"]) == (COMMIT, "main", placed.sha256)
        assert (lock["licence"], lock["added_by"]) == ("Apache-2.0", "test")
        assert seen[-1].total_bytes in (len(CONFIG), len(published()))
        model = load_backbone(unpinned(), weights_dir=tmp_path)
        assert all(torch.equal(t, tensors()[name]) for name, t in tensors_of(model).items())
        assert sorted(p.name for p in tmp_path.iterdir()) == [".toy.busy", "toy"], "nothing else is left"
        asked = len(hub.asked)
        assert shelf.pull(unpinned(), tmp_path, ME, endpoint=hub.url) == placed
        assert len(hub.asked) == asked, "what is here is not asked for again"

    def test_a_broken_connection_is_gone_on_with(
        self, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
        hub.cut_at = 500
        shelf.pull(unpinned(), tmp_path, ME, endpoint=hub.url)
        ranges = [wanted for method, path, wanted in hub.asked if method == "GET" and path.startswith(STORE)]
        assert ranges == [None, "bytes=500-"]

    def test_so_is_one_that_another_process_left(self, tmp_path: Path, hub: Hub) -> None:
        etag = hub.etag(published())
        partly = tmp_path / ".toy.fetched"
        partly.mkdir()
        (partly / f"model.safetensors.{etag[:16]}.part").write_bytes(published()[:700])
        shelf.pull(unpinned(), tmp_path, ME, endpoint=hub.url)
        assert ("GET", f"/toys/toy/resolve/{COMMIT}/model.safetensors", "bytes=700-") in hub.asked
        assert load_backbone(unpinned(), weights_dir=tmp_path)

    def test_what_a_killed_process_left_goes(self, tmp_path: Path, hub: Hub) -> None:
        (tmp_path / ".toy.0123abcd.staging").mkdir()
        (tmp_path / ".toys.0123abcd.staging").mkdir()
        shelf.pull(unpinned(), tmp_path, ME, endpoint=hub.url)
        assert sorted(p.name for p in tmp_path.iterdir()) == [".toy.busy", ".toys.0123abcd.staging", "toy"]

    def test_what_the_watcher_raises_ends_it_and_the_beginning_is_kept(self, tmp_path: Path, hub: Hub) -> None:
        def stop(download: Download) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            shelf.pull(unpinned(), tmp_path, ME, watch=stop, endpoint=hub.url)
        assert (tmp_path / ".toy.fetched").is_dir()
        assert not (tmp_path / "toy").exists()

    def test_content_that_is_not_what_the_hub_names_is_refused(self, tmp_path: Path, hub: Hub) -> None:
        hub.lies = True
        with pytest.raises(WeightsError, match="the hub names") as caught:
            shelf.pull(unpinned(), tmp_path, ME, endpoint=hub.url)
        assert caught.value.code == "weights_digest_mismatch"
        assert not (tmp_path / "toy").exists()

    def test_so_is_what_the_catalogue_does_not_name(self, tmp_path: Path, hub: Hub) -> None:
        spec = dataclasses.replace(unpinned(), sha256="0" * 64)
        with pytest.raises(WeightsError, match="the catalogue names 0000") as caught:
            shelf.pull(spec, tmp_path, ME, endpoint=hub.url)
        assert caught.value.code == "weights_digest_mismatch"

    def test_no_hub_is_one_sentence_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="temper backbones add toy --path") as caught:
            shelf.pull(unpinned(), tmp_path, ME, endpoint="http://127.0.0.1:9")
        assert caught.value.code == "weights_unreachable"
        assert "\n" not in caught.value.message

    def test_a_file_that_the_repository_lacks_is_said(self, tmp_path: Path, hub: Hub) -> None:
        del hub.files["config.json"]
        with pytest.raises(WeightsError, match=r"toys/toy at revision main") as caught:
            shelf.pull(unpinned(), tmp_path, ME, endpoint=hub.url)
        assert caught.value.code == "weights_unreachable"

    def test_what_is_on_no_hub_says_where_it_is(self, tmp_path: Path) -> None:
        spec = dataclasses.replace(unpinned(), pickled=True, files=("toy.pth",))
        with pytest.raises(WeightsError, match=r"fetch toy\.pth of toys/toy"):
            hubs.fetch(spec, tmp_path, revision=None, watch=lambda download: None)


class TestAdd:
    @pytest.mark.parametrize("name", ["", "model.safetensors"])
    def test_a_folder_or_its_file(self, tmp_path: Path, name: str) -> None:
        placed = shelf.add(unpinned(), tmp_path / "w", folder_of(tmp_path / "given") / name, ME)
        assert load_backbone(unpinned(), weights_dir=tmp_path / "w")
        assert read_lock(placed.folder)["from"] == "path"

    def test_files_put_there_by_hand_are_pinned_in_their_place(self, tmp_path: Path) -> None:
        (tmp_path / "w").mkdir()
        folder = folder_of(tmp_path / "w" / "toy")
        with pytest.raises(WeightsError, match="nobody has checked and pinned"):
            find_weights(unpinned(), weights_dir=tmp_path / "w")
        shelf.add(unpinned(), tmp_path / "w", folder, ME)
        assert load_backbone(unpinned(), weights_dir=tmp_path / "w")

    def test_only_the_pinned_digest_is_served_and_added_from_then_on(self, tmp_path: Path) -> None:
        placed = shelf.add(unpinned(), tmp_path / "w", folder_of(tmp_path / "one"), ME)
        with pytest.raises(WeightsError, match="is pinned as toy") as caught:
            shelf.add(unpinned(), tmp_path / "w", folder_of(tmp_path / "two", weights=published(seed=2)), ME)
        assert caught.value.code == "weights_digest_mismatch"
        placed.weights.write_bytes(published(seed=2))
        with pytest.raises(WeightsError, match="nothing else is served"):
            load_backbone(unpinned(), weights_dir=tmp_path / "w")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no header", "no safetensors file"),
            (save({"body.0.weight": torch.zeros(1)}), "do not fit"),
            (save({**tensors(), "output.bias": torch.zeros(3)}), "other shapes"),
        ],
    )
    def test_what_does_not_fit_leaves_nothing(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(WeightsError, match=message) as caught:
            shelf.add(unpinned(), tmp_path / "w", folder_of(tmp_path / "given", weights=content), ME)
        assert str(tmp_path / "given" / "model.safetensors") in caught.value.message, "not where it was copied to"
        assert [p.name for p in (tmp_path / "w").iterdir()] == [".toy.busy"]

    @pytest.mark.parametrize("config", [b"{}", b"[]", b"{", json.dumps({**toy.CONFIG, "width": "large"}).encode()])
    def test_a_config_that_describes_no_such_network_is_said(self, tmp_path: Path, config: bytes) -> None:
        given = folder_of(tmp_path / "given")
        (given / "config.json").write_bytes(config)
        with pytest.raises(WeightsError, match=r"cannot serve as toy: .*config\.json"):
            shelf.add(unpinned(), tmp_path / "w", given, ME)

    def test_a_lock_of_another_digest_than_the_catalogue_s_is_stale(self, tmp_path: Path) -> None:
        shelf.add(unpinned(), tmp_path / "w", folder_of(tmp_path / "given"), ME)
        with pytest.raises(WeightsError, match="the catalogue names 0000"):
            find_weights(toy.spec("0" * 64), weights_dir=tmp_path / "w")

    def test_a_licence_without_commerce_has_to_be_accepted(self, tmp_path: Path) -> None:
        spec = dataclasses.replace(unpinned(), non_commercial=True, licence="CC-BY-NC-4.0")
        given = folder_of(tmp_path / "given")
        with pytest.raises(WeightsError, match=r"CC-BY-NC-4\.0") as caught:
            shelf.add(spec, tmp_path / "w", given, ME)
        assert caught.value.code == "license_not_accepted"
        placed = shelf.add(spec, tmp_path / "w", given, Consent(by="me", accept_license=True))
        assert read_lock(placed.folder)["licence_accepted"] is True
        (placed.folder / LOCK).unlink()
        with pytest.raises(WeightsError, match="Nobody has accepted"):
            find_weights(spec, weights_dir=tmp_path / "w")


class TestPickles:
    def spec(self) -> BackboneSpec:
        return dataclasses.replace(unpinned(), pickled=True, files=("toy.pth", "config.json"))

    def test_a_checkpoint_with_its_command_line_is_converted(self, tmp_path: Path) -> None:
        given = folder_of(tmp_path / "given")
        (given / "model.safetensors").unlink()
        everything = {"student": tensors(), "optimizer": {"lr": 0.1}, "epoch": 3, "args": argparse.Namespace(seed=1)}
        torch.save(everything, given / "toy.pth")
        placed = shelf.add(self.spec(), tmp_path / "w", given, ME)
        model = load_backbone(self.spec(), weights_dir=tmp_path / "w")
        assert all(torch.equal(t, tensors()[name]) for name, t in tensors_of(model).items())
        lock = read_lock(placed.folder)
        assert lock["converted_from"]["sha256"] == hashlib.sha256((given / "toy.pth").read_bytes()).hexdigest()
        assert sorted(p.name for p in placed.folder.iterdir()) == ["config.json", "model.safetensors", LOCK]

    def test_one_that_would_run_code_is_refused_and_does_not(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, tuple[object, ...]]:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"student": {"w": torch.zeros(1)}, "args": Evil()}, tmp_path / "evil.pth")
        (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
        for name in ("evil.pth", "old.pth"):
            with pytest.raises(WeightsError, match="is not read") as caught:
                tensors_from_pickle(tmp_path / name)
            assert caught.value.code == "unsafe_checkpoint"
            assert "weights_only" not in caught.value.message, "torch's own text tells how to run it"
        assert not (tmp_path / "ran").exists()

    def test_one_that_is_cut_or_was_never_one_is_refused(self, tmp_path: Path) -> None:
        torch.save(tensors(), tmp_path / "whole.pth")
        whole, cut = (tmp_path / "whole.pth").read_bytes(), tmp_path / "cut.pth"
        for content in (whole[: len(whole) // 2], whole[:3], b"", b"hello world" * 9, b"\x80\x02K.", b"s."):
            cut.write_bytes(content)
            with pytest.raises(WeightsError) as caught:
                tensors_from_pickle(cut)
            assert caught.value.code == "unsafe_checkpoint"

    def test_one_without_tensors_is_refused(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3}, tmp_path / "empty.pth")
        with pytest.raises(WeightsError, match="no tensors"):
            tensors_from_pickle(tmp_path / "empty.pth")

    def test_a_pickle_is_not_read_where_safetensors_were_published(self, tmp_path: Path) -> None:
        torch.save(tensors(), tmp_path / "toy.pth")
        with pytest.raises(WeightsError, match="no safetensors file"):
            shelf.add(unpinned(), tmp_path / "w", tmp_path / "toy.pth", ME)


class TestOpening:
    def test_a_file_that_changes_after_it_was_opened_is_hashed_again(self, tmp_path: Path) -> None:
        placed = shelf.add(unpinned(), tmp_path / "w", folder_of(tmp_path / "given"), ME)
        base = pretrained(unpinned(), weights_dir=tmp_path / "w")
        assert base.fresh() is not base.fresh()
        placed.weights.write_bytes(published(seed=2))
        with pytest.raises(WeightsError, match="nothing else is served"):
            base.fresh()

    def test_where_no_config_was_published_the_class_has_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = dataclasses.replace(unpinned(), files=("model.safetensors",))
        (tmp_path / "alone.safetensors").write_bytes(published())
        monkeypatch.setattr(toy.Toy, "configs", {"toy": toy.CONFIG})
        placed = shelf.add(spec, tmp_path / "w", tmp_path / "alone.safetensors", ME)
        assert placed.config is None
        assert load_backbone(spec, weights_dir=tmp_path / "w").config == toy.CONFIG

    def test_what_no_checkpoint_holds_may_be_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rest = {name: t for name, t in tensors().items() if name != "output.bias"}
        given = folder_of(tmp_path / "given", weights=save(rest))
        with pytest.raises(WeightsError, match=r"missing \['output\.bias'\]"):
            shelf.add(unpinned(), tmp_path / "w", given, ME)
        monkeypatch.setattr(toy.Toy, "fresh_parameters", frozenset({"output.bias"}))
        shelf.add(unpinned(), tmp_path / "w", given, ME)
        load_backbone(unpinned(), weights_dir=tmp_path / "w")

    def test_what_was_judged_on_other_weights_is_not_served_by_these(self, toy_weights: Path) -> None:
        with pytest.raises(WeightsError, match="What was judged") as caught:
            Forecaster.zero_shot("toy", digest="sha256:" + "0" * 64, weights_dir=toy_weights)
        assert caught.value.code == "weights_digest_mismatch"
