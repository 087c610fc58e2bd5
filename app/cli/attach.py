"""Becomes another program that dies with its parent: `python -m app.cli.attach PARENT_PID PROGRAM ARGUMENTS…`.

The death signal survives exec, so a supervisor killed with -9 leaves no child behind (on Linux; elsewhere only a clean
stop reaches them). A `preexec_fn` would do the same, but is unsafe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call above
            sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
