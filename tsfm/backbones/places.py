"""Where the weights of a backbone lie on this machine. Torch-free: the gateway asks before it takes a job."""

from pathlib import Path

from tsfm.catalog import BackboneSpec
from tsfm.errors import WeightsError

SHIPPED = Path(__file__).parent / "checkpoints"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def find_weights(spec: BackboneSpec, *, weights_dir: Path | None) -> Path:
    """The folder that holds the backbone's files: shipped, or `weights_dir/<name>/`. No hashing.

    Raises `WeightsError` naming the files to fetch and where to put them.
    """
    places = [SHIPPED / spec.name]
    if weights_dir is not None:
        places.append(weights_dir / spec.name)
    for place in places:
        if all((place / name).is_file() for name in (WEIGHTS, CONFIG)):
            return place
    where = f"put {WEIGHTS} and {CONFIG} into {places[-1]}" if weights_dir is not None else "give weights_dir"
    source = f" (published at {spec.repo}, revision {spec.revision})" if spec.repo else ""
    raise WeightsError(f"The pretrained weights of {spec.name} are not on this machine{source}: {where}.")
