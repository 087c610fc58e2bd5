"""`python -m tests.worker.toy_run JOB_ID OWNER`: the real run, with "toy" in its catalogue, taking its time.

Each step sleeps a little, so that a test can act in the middle of a job on a fast machine, and on a busy one too.
"""

import sys
import time

import torch
from torch import Tensor

from app.settings import Settings
from tests import toy
from tsfm.backbones.base import Batch
from worker.run_job import main

STEP_SECONDS = 0.025


class SlowToy(toy.Toy):
    def loss(self, batch: Batch) -> Tensor:
        time.sleep(STEP_SECONDS)
        return super().loss(batch)


if __name__ == "__main__":
    torch.set_num_threads(1)
    toy.Toy = SlowToy  # type: ignore[misc]  # the catalogue names the class by its module
    toy.register(Settings().weights_path)
    sys.exit(main())
