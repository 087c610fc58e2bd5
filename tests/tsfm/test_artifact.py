"""Artifacts: content-addressed, refused when damaged."""

import json
from pathlib import Path

import pytest

from tsfm.artifact import digest_of, digest_of_files, files_of, open_artifact, write_artifact
from tsfm.errors import ArtifactError

WEIGHTS = {"model.safetensors": b"weights", "head.safetensors": b"head"}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, str]:
    digest = write_artifact(tmp_path / "a", WEIGHTS, {"seed": 7}, "# card\n")
    return tmp_path / "a", digest


def test_digest_is_over_sorted_paths_and_hashes(written: tuple[Path, str]) -> None:
    path, digest = written
    assert digest == digest_of(path) == digest_of_files(dict(reversed(files_of(path).items())))
    assert digest.startswith("sha256:")
    assert len(digest) == 71


def test_the_same_content_has_the_same_digest_elsewhere(tmp_path: Path, written: tuple[Path, str]) -> None:
    assert write_artifact(tmp_path / "deep" / "b", WEIGHTS, {"seed": 7}, "# card\n") == written[1]
    assert write_artifact(tmp_path / "c", WEIGHTS, {"seed": 8}, "# card\n") != written[1]


def test_open_answers_the_manifest(written: tuple[Path, str]) -> None:
    artifact = open_artifact(written[0], written[1])
    assert artifact.manifest == {"format": 1, "seed": 7, "files": ["head.safetensors", "model.safetensors"]}
    assert {name: artifact.file(name).read_bytes() for name in artifact.manifest["files"]} == WEIGHTS


def test_writing_again_replaces_and_leaves_nothing_aside(written: tuple[Path, str]) -> None:
    digest = write_artifact(written[0], {"model.safetensors": b"other"}, {"seed": 7}, "# card\n")
    assert digest == digest_of(written[0]) != written[1]
    assert [p.name for p in written[0].parent.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "manifest.json", "README.md"])
def test_a_changed_file_is_refused(written: tuple[Path, str], name: str) -> None:
    with (written[0] / name).open("ab") as f:
        f.write(b" ")
    with pytest.raises(ArtifactError) as caught:
        open_artifact(written[0], written[1])
    assert caught.value.code == "digest_mismatch"


@pytest.mark.parametrize("name", ["manifest.json", "README.md", "head.safetensors"])
def test_a_missing_file_is_named(written: tuple[Path, str], name: str) -> None:
    (written[0] / name).unlink()
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        open_artifact(written[0])


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 99})])
def test_an_unreadable_manifest_is_refused(written: tuple[Path, str], text: str) -> None:
    (written[0] / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError):
        open_artifact(written[0])


def test_a_manifest_cannot_hold_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_artifact(tmp_path / "a", {}, {"loss": float("nan")}, "")
