"""Puts weights on the shelf: `weights_dir/<name>/`, fetched from a hub or copied from a path, checked, pinned.

Nothing lies there before it was hashed and fits the published architecture, tensor by tensor. Torch, `huggingface_hub`
and the converter of pickles are imported by whoever gets that far, so that a command can ask the rest without them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tsfm.artifact import file_sha256, sync_directory, write_synced
from tsfm.backbones import hub
from tsfm.backbones.hub import Watch
from tsfm.backbones.places import CONFIG, LOCK, LOCK_FORMAT, WEIGHTS, Checkpoint, find_weights, read_lock
from tsfm.errors import WeightsError
from tsfm.spec import BackboneSpec

_CHUNK_BYTES = 4 << 20
_POLL_SECONDS = 0.2
_STAGING = ".staging"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Who puts the weights here, and whether their licence is accepted."""

    by: str
    accept_license: bool = False

    def check(self, spec: BackboneSpec) -> None:
        if spec.non_commercial and not self.accept_license:
            raise WeightsError(
                f"The weights of {spec.name} are licensed {spec.licence}: not for commercial use. Say that you accept "
                "this with --accept-license.",
                code="license_not_accepted",
                details={"licence": spec.licence},
            )


def pull(
    spec: BackboneSpec,
    weights_dir: Path,
    consent: Consent,
    *,
    revision: str | None = None,
    watch: Watch = lambda download: None,
    endpoint: str | None = None,
) -> Checkpoint:
    """Fetches from the hub what is not here yet. Answers at once where the weights lie here already.

    Raises what `hub.fetch` does, and `WeightsError` for a digest that is not the catalogue's or the one pinned here,
    for tensors that do not fit, for a licence that is not accepted.
    """
    consent.check(spec)
    with _alone(spec, weights_dir, watch):
        if (here := _here(spec, weights_dir)) is not None and revision is None:
            return here
        partly = weights_dir / f".{spec.name}.fetched"
        commit, found = hub.fetch(spec, partly, revision=revision, watch=watch, endpoint=endpoint)
        weights = next(path for name, path in found.items() if name.endswith(".safetensors"))
        facts = {"from": "hub", "repo": spec.repo, "revision": revision or spec.revision, "commit": commit}
        source = _Source(weights=weights, is_ours=True, config=found.get(CONFIG), facts=facts, shown=weights)
        placed = _place(spec, weights_dir, consent, source)
        shutil.rmtree(partly)
        return placed


def add(spec: BackboneSpec, weights_dir: Path, path: Path, consent: Consent) -> Checkpoint:
    """Copies the published files from `path`, a folder or the weights file itself; a pickled one is converted.

    Files that lie in their place already are only checked and pinned. Raises as `pull` does, without a hub.
    """
    consent.check(spec)
    weights = _published_file(spec, path)
    with _alone(spec, weights_dir, lambda download: None):
        facts = {"from": "path", "path": str(path.resolve())}
        if weights.suffix == ".safetensors":
            config = weights.parent / CONFIG if CONFIG in spec.files else None
            source = _Source(weights=weights, is_ours=False, config=config, facts=facts, shown=weights)
            return _place(spec, weights_dir, consent, source)
        return _convert(spec, weights_dir, weights, consent, facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    weights: Path
    is_ours: bool
    """Fetched or made for this purpose: moved, not copied."""
    config: Path | None
    facts: Mapping[str, Any]
    """For the lock: where they came from."""
    shown: Path
    """What messages call it: the path as it was given."""


def _published_file(spec: BackboneSpec, path: Path) -> Path:
    """The weights file that `path` is or holds: the published one, or safetensors that were made of it."""
    if path.is_file():
        if path.suffix != ".safetensors" and not spec.pickled:
            raise WeightsError(f"{path} is no safetensors file, and {spec.name} is published as one.")
        return path
    names = [name for name in (WEIGHTS, *spec.files) if name != CONFIG]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise WeightsError(f"There is no {' or '.join(dict.fromkeys(names))} in {path}.")


def _convert(
    spec: BackboneSpec, weights_dir: Path, pickled: Path, consent: Consent, facts: Mapping[str, Any]
) -> Checkpoint:
    from safetensors.torch import save_file

    from tsfm.backbones.convert import tensors_from_pickle

    staging = _staging(spec, weights_dir)
    try:
        made = staging / "converted.safetensors"
        save_file(tensors_from_pickle(pickled), made)
        config = pickled.parent / CONFIG if CONFIG in spec.files else None
        converted = {**facts, "converted_from": {"name": pickled.name, "sha256": file_sha256(pickled)}}
        source = _Source(weights=made, is_ours=True, config=config, facts=converted, shown=pickled)
        return _place(spec, weights_dir, consent, source)
    finally:
        shutil.rmtree(staging)


def _place(spec: BackboneSpec, weights_dir: Path, consent: Consent, source: _Source) -> Checkpoint:
    """Copy, hash, check, pin, rename: readers see the folder as it was or complete."""
    folder = weights_dir / spec.name
    if source.config is not None and not source.config.is_file():
        raise WeightsError(f"There is no {CONFIG} beside {source.weights}; {spec.name} is published with one.")
    staging = _staging(spec, weights_dir)
    try:
        sha256 = (_moved if source.is_ours else _copied)(source.weights, staging / WEIGHTS)
        _check_digest(spec, folder, sha256)
        if source.config is not None:
            _copied(source.config, staging / CONFIG)
        _check_fit(spec, staging, shown=source.shown)
        lock = {
            "format": LOCK_FORMAT,
            "backbone": spec.name,
            "sha256": sha256,
            "bytes": (staging / WEIGHTS).stat().st_size,
            "licence": spec.licence,
            **({"licence_accepted": True} if spec.non_commercial else {}),
            "added_by": consent.by,
            "added_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **source.facts,
        }
        write_synced(staging / LOCK, (json.dumps(lock, indent=1) + "\n").encode())
        sync_directory(staging)
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return find_weights(spec, weights_dir=weights_dir)


def _check_digest(spec: BackboneSpec, folder: Path, sha256: str) -> None:
    if spec.sha256 not in (None, sha256):
        raise WeightsError(
            f"The weights hash to sha256 {sha256}, but the catalogue names {spec.sha256} for {spec.name}: these are "
            "others, and nothing else is served under this name.",
            code="weights_digest_mismatch",
        )
    pinned = read_lock(folder).get("sha256")
    if spec.sha256 is None and pinned not in (None, sha256):
        raise WeightsError(
            f"The weights hash to sha256 {sha256}, but {pinned} is pinned as {spec.name} on this machine. If you mean "
            f"to change it for good, remove {folder} first: versions tuned on the old weights will not open any more.",
            code="weights_digest_mismatch",
        )


def _check_fit(spec: BackboneSpec, folder: Path, *, shown: Path) -> None:
    """Strictly, without memory for the weights; safetensors' header says names and shapes."""
    from tsfm.backbones.weights import check_published

    check_published(spec, folder / WEIGHTS, folder / CONFIG if CONFIG in spec.files else None, shown=shown)


def _here(spec: BackboneSpec, weights_dir: Path) -> Checkpoint | None:
    try:
        return find_weights(spec, weights_dir=weights_dir)
    except WeightsError:
        return None


def _remove_leftovers(spec: BackboneSpec, weights_dir: Path) -> None:
    """Of a process that was killed in the middle: whoever holds the lock works alone. `.fetched` is gone on with."""
    for path in weights_dir.glob(f".{spec.name}.*{_STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)


def _staging(spec: BackboneSpec, weights_dir: Path) -> Path:
    staging = weights_dir / f".{spec.name}.{uuid.uuid4().hex[:8]}{_STAGING}"
    staging.mkdir(parents=True)
    return staging


def _copied(source: Path, target: Path) -> str:
    """Copies and answers the sha256 of what was written; on the disk when this returns."""
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK_BYTES):
            digest.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()


def _moved(source: Path, target: Path) -> str:
    """As `_copied`, for a file of our own in the same file system."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.rename(target)
    return file_sha256(target)


def _swap(staging: Path, folder: Path) -> None:
    """`staging` becomes `folder`; what lay there (a link, files put there by hand) goes."""
    old = None
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        old = folder.with_name(f"{staging.name}.old")
        folder.rename(old)
    staging.rename(folder)
    sync_directory(folder.parent)
    if old is not None:
        shutil.rmtree(old)


@contextlib.contextmanager
def _alone(spec: BackboneSpec, weights_dir: Path, watch: Watch) -> Iterator[None]:
    """One process at a time fetches a backbone; the others wait, and tell `watch` so that they can be stopped."""
    weights_dir.mkdir(parents=True, exist_ok=True)
    with (weights_dir / f".{spec.name}.busy").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                watch(hub.Download(name=spec.name, done_bytes=0, total_bytes=None))
                time.sleep(_POLL_SECONDS)
        _remove_leftovers(spec, weights_dir)
        yield
