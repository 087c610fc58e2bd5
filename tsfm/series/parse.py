"""Reading a file in a process of its own: one JSON request on stdin, one JSON answer on stdout.

    {"path", "filename", "options", "limits", "out", "work_dir"}
    → {"ok": true, "reading": {…}} | {"ok": false, "error": {"code", "message", "param", "details"}}

The exit status is 0 for both answers; anything else is a fault of ours or the machine's, with its trace on stderr.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsfm.errors import ConfigError, DataError
from tsfm.series.options import Limits, ReadOptions
from tsfm.series.read import read_file

_PR_SET_PDEATHSIG = 1


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    try:
        reading = read_file(
            Path(request["path"]),
            filename=request.get("filename"),
            options=ReadOptions.from_mapping(request.get("options") or {}),
            limits=Limits.from_mapping(request.get("limits") or {}),
            out=Path(request["out"]),
            work_dir=Path(request["work_dir"]),
        )
    except (DataError, ConfigError) as error:
        return {
            "ok": False,
            "error": {
                "code": error.code,
                "message": error.message,
                "param": error.param,
                "details": error.details,
            },
        }
    return {"ok": True, "reading": reading}


def die_with_parent() -> None:
    """On Linux: nobody would take the answer, and nobody would enforce the time limit of a reader left alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answer the request on stdin."""
    die_with_parent()
    json.dump(answer(json.load(sys.stdin)), sys.stdout, allow_nan=False)


if __name__ == "__main__":
    main()
