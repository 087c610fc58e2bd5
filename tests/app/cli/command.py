"""Runs the `temper` command in this process, as its console script does."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import orjson

from app.cli.main import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


def temper(*arguments: str) -> Result:
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return Result(exit_code=code, out=out.getvalue(), err=err.getvalue())
