"""Where the weights of a backbone lie on this machine, and exactly which they are. Torch-free and without hashing: the
gateway asks before it takes a job, whoever opens the file compares its digest.

`weights_dir/<name>/` holds `model.safetensors`, the published `config.json` where there is one, and a lock,
`temper.json`, written when the files were fetched or added: it pins their digest, and says where they came from and who
accepted their licence. Files put there by hand need no lock where the catalogue names their digest and the licence asks
for no consent.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsfm.catalog import BackboneSpec
from tsfm.errors import WeightsError

SHIPPED = Path(__file__).parent / "checkpoints"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
LOCK = "temper.json"
LOCK_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Pretrained weights on this machine."""

    spec: BackboneSpec
    folder: Path
    sha256: str
    """What the weights file must hash to: the catalogue's digest, else the one that the lock pins."""

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def config(self) -> Path | None:
        """The published architecture; None where it stands in the class (`Backbone.configs`)."""
        return self.folder / CONFIG if CONFIG in self.spec.files else None

    @property
    def digest(self) -> str:
        """The name of these weights in manifests, answers and caches."""
        return f"sha256:{self.sha256}"


def find_weights(spec: BackboneSpec, *, weights_dir: Path | None) -> Checkpoint:
    """The backbone's files: shipped, or in `weights_dir/<name>/`.

    Raises `WeightsError`: the files to fetch and where to put them, a digest that nobody has pinned or that is not the
    catalogue's, a licence that nobody accepted.
    """
    if spec.sha256 is not None and _has_files(spec, SHIPPED / spec.name):
        return Checkpoint(spec=spec, folder=SHIPPED / spec.name, sha256=spec.sha256)
    if weights_dir is None:
        raise absent(spec, weights_dir)
    folder = weights_dir / spec.name
    if not _has_files(spec, folder):
        raise absent(spec, weights_dir)
    lock = read_lock(folder)
    if spec.non_commercial and not lock.get("licence_accepted"):
        raise WeightsError(
            f"Nobody has accepted the licence of {spec.name} ({spec.licence}, non-commercial) on this machine: "
            f"`temper backbones add {spec.name} --path {folder} --accept-license`.",
            code="license_not_accepted",
            details={"licence": spec.licence},
        )
    pinned = lock.get("sha256", spec.sha256)
    if pinned is None:
        raise WeightsError(
            f"The files of {spec.name} lie in {folder}, but nobody has checked and pinned them: "
            f"`temper backbones add {spec.name} --path {folder}`."
        )
    if spec.sha256 is not None and pinned != spec.sha256:
        raise WeightsError(
            f"{folder / LOCK} pins sha256 {pinned}, but the catalogue names {spec.sha256} for {spec.name}: "
            f"fetch the weights again (`temper backbones pull {spec.name}`).",
            code="weights_digest_mismatch",
        )
    return Checkpoint(spec=spec, folder=folder, sha256=pinned)


def read_lock(folder: Path) -> dict[str, Any]:
    """What the folder's lock says; empty where there is none, `WeightsError` where it cannot be read."""
    try:
        found = json.loads((folder / LOCK).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{folder / LOCK} is not JSON: {error}. Add the weights again.") from error
    if not isinstance(found, dict) or found.get("format") != LOCK_FORMAT:
        raise WeightsError(f"{folder / LOCK} is not of format {LOCK_FORMAT}, the one this version reads.")
    return found


def command(spec: BackboneSpec) -> str | None:
    """What puts the weights on this machine; None where they ship with the code."""
    if spec.repo is None and not spec.pickled:
        return None
    if spec.pickled:
        return f"temper backbones add {spec.name} --path {spec.files[0]}{_consent(spec)}"
    return f"temper backbones pull {spec.name}{_consent(spec)}"


def _consent(spec: BackboneSpec) -> str:
    return " --accept-license" if spec.non_commercial else ""


def may_be_pulled(spec: BackboneSpec) -> bool:
    """Whether a worker may fetch the weights by itself: they are on a hub, and their licence asks nobody."""
    return spec.repo is not None and not spec.pickled and not spec.non_commercial


def absent(spec: BackboneSpec, weights_dir: Path | None) -> WeightsError:
    """Which files to fetch and where to put them, in a sentence."""
    source = f" (published at {spec.repo}, revision {spec.revision})" if spec.repo else ""
    said = f"The pretrained weights of {spec.name} are not on this machine{source}: "
    if weights_dir is None:
        return WeightsError(f"{said}give weights_dir.")
    files, folder = " and ".join(spec.files), weights_dir / spec.name
    if spec.pickled:
        return WeightsError(f"{said}fetch {files} and run `{command(spec)}`, which converts it into {folder}.")
    if command(spec) is None or (spec.sha256 is not None and not spec.non_commercial):
        fetch = f"`{command(spec)}`, or " if command(spec) else ""
        return WeightsError(f"{said}{fetch}put {files} into {folder}.")
    return WeightsError(
        f"{said}`{command(spec)}`, which puts {files} into {folder}, or fetch them elsewhere and "
        f"`temper backbones add {spec.name} --path FOLDER{_consent(spec)}`."
    )


def _has_files(spec: BackboneSpec, folder: Path) -> bool:
    names = (WEIGHTS, CONFIG) if CONFIG in spec.files else (WEIGHTS,)
    return all((folder / name).is_file() for name in names)
