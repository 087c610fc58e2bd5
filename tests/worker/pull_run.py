"""`python -m tests.worker.pull_run JOB_ID OWNER`: the real run, and a "toy" in its catalogue that is on a hub only."""

import dataclasses
import sys

from tests import toy
from tsfm import catalog
from worker.run_job import main

if __name__ == "__main__":
    catalog.BACKBONES["toy"] = dataclasses.replace(
        toy.spec("0" * 64), sha256=None, repo="toys/toy", revision="main", non_commercial=False
    )
    sys.exit(main())
