"""A tuned model on disk: immutable, content-addressed, and nothing in it can run code.

An artifact is a directory of weights (`model.safetensors`, or the files of a PEFT adapter), `manifest.json` (everything
needed to say what they are and to open them; it lists them) and `README.md` (model card). Its digest is the sha256 over
the sorted `sha256  path` lines of its files, so the same weights and facts have the same digest on any machine and at
any time. Torch-free: tensors come in as bytes.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsfm.errors import ArtifactError

FORMAT = 1
WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
CARD = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact whose files were read and hashed."""

    path: Path
    digest: str
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """One of its files; `ArtifactError` when it has none of that name."""
        if not (self.path / name).is_file():
            raise ArtifactError(f"The artifact at {self.path.name!r} lacks {name}.")
        return self.path / name


def file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def files_of(directory: Path) -> dict[str, str]:
    """Relative path → sha256 (hex) of every file of an artifact; `ArtifactError` when manifest or card are missing."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    if missing := [name for name in (MANIFEST, CARD) if name not in names]:
        raise ArtifactError(f"The artifact at {directory.name!r} lacks {', '.join(missing)}.")
    return {name: file_sha256(directory / name) for name in names}


def digest_of_files(files: Mapping[str, str]) -> str:
    """The artifact digest from `path → sha256`."""
    lines = "".join(f"{sha}  {path}\n" for path, sha in sorted(files.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def digest_of(directory: Path) -> str:
    return digest_of_files(files_of(directory))


def write_artifact(out_dir: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], card: str) -> str:
    """Writes beside `out_dir`, fsyncs, renames into place (replacing an earlier try) and answers the digest.

    `files` are contents by plain file name; `manifest` must be plain JSON without clock or host, and lists them.
    """
    staging = out_dir.with_name(f".{out_dir.name}-{uuid.uuid4().hex[:8]}")
    staging.mkdir(parents=True)
    listed = {**manifest, "format": FORMAT, "files": sorted(files)}
    text = json.dumps(listed, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    for name, data in files.items():
        assert name == Path(name).name, "file names are given by methods"
        write_synced(staging / name, data)
    write_synced(staging / MANIFEST, (text + "\n").encode())
    write_synced(staging / CARD, card.encode())
    sync_directory(staging)
    digest = digest_of(staging)
    if out_dir.exists():
        shutil.rmtree(out_dir)
    staging.rename(out_dir)
    sync_directory(out_dir.parent)
    return digest


def open_artifact(directory: Path, expected_digest: str | None = None) -> Artifact:
    """Hashes every file and parses the manifest; anything unexpected is an `ArtifactError`."""
    digest = digest_of(directory)
    if expected_digest is not None and digest != expected_digest:
        raise ArtifactError(
            f"The artifact is damaged: its files hash to {digest}, but {expected_digest} was registered.",
            code="digest_mismatch",
        )
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{MANIFEST} is not JSON: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{MANIFEST} is not of format {FORMAT}, the one this version reads.")
    artifact = Artifact(path=directory, digest=digest, manifest=manifest)
    for name in manifest.get("files", [WEIGHTS]):  # artifacts of 0.1 hold this one and do not list it
        artifact.file(name)
    return artifact


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def sync_directory(path: Path) -> None:
    """Makes a rename inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
