"""What can go wrong in the numerical core, drawn as a tree.

    TemperError                 everything below; carries `code`, `param` and JSON-ready `details`
    ├── DataError               the user's series cannot be used as they are
    │   └── SeriesTooShort      … because there are not enough points (`have`, `need`)
    ├── ConfigError             a job, method or backbone was asked for in a way that cannot work
    │   └── UnknownName         … by a name that the catalogue does not hold (`known`)
    ├── WeightsError            pretrained weights are missing, or are not what their digest says
    ├── ArtifactError           a stored artifact is damaged or of another kind
    └── RunError                training could not go on (ours or the machine's, not the user's spelling)
        ├── NonFinite           a loss or gradient was not finite; the weights before that step are kept
        ├── OutOfMemory         no batch size fits
        └── Cancelled           the caller asked to stop; not a failure

Data and configuration errors are for users: the message says what, where and how to mend it.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class TemperError(Exception):
    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.details: dict[str, Any] = dict(details or {})


class DataError(TemperError, ValueError):
    code = "invalid_data"


class SeriesTooShort(DataError):
    code = "series_too_short"

    def __init__(self, message: str, *, have: int, need: int, param: str | None = None) -> None:
        super().__init__(message, param=param, details={"have": have, "need": need})


class ConfigError(TemperError, ValueError):
    code = "invalid_config"


class UnknownName(ConfigError):
    """A catalogue lookup that failed; the answer lists the names that would have worked."""

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Sequence[str], *, param: str | None = None) -> None:
        listed = ", ".join(sorted(known))
        super().__init__(
            f"There is no {kind} named {name!r}. Known: {listed}.",
            code=f"unknown_{kind}".replace(" ", "_"),
            param=param,
            details={"known": sorted(known)},
        )


class WeightsError(TemperError):
    code = "weights_unavailable"


class ArtifactError(TemperError):
    code = "invalid_artifact"


class RunError(TemperError, RuntimeError):
    code = "run_failed"


class NonFinite(RunError):
    code = "non_finite"


class OutOfMemory(RunError):
    code = "out_of_memory"


class Cancelled(RunError):
    code = "cancelled"
