"""`python -m tests.faults.quick_worker`: a real worker whose runs train with the stand-in of `quick_run.py`."""

import sys

from worker.__main__ import main

COMMAND = (sys.executable, "-m", "tests.faults.quick_run")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command=COMMAND))
