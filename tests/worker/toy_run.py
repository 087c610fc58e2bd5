"""`python -m tests.worker.toy_run JOB_ID OWNER`: the real run, with "toy" in its catalogue."""

import sys

import torch

from app.settings import Settings
from tests import toy
from worker.run_job import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    toy.register(Settings().weights_path)
    sys.exit(main())
