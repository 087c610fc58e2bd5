"""`python -m tests.worker.toy_worker`: a real worker whose runs know the tests' backbone "toy"."""

import sys

from worker.__main__ import main

COMMAND = (sys.executable, "-m", "tests.worker.toy_run")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command=COMMAND))
