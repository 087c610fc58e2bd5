"""What a caller may say about a file, and the limits a file must keep."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from tsfm.errors import ConfigError

DUPLICATES = ("error", "first", "last", "mean", "sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """Roles and spellings the caller settled; what is None or empty is inferred and echoed in the reading."""

    id_column: str | None = None
    timestamp_column: str | tuple[str, str] | None = None
    """One column, or two that hold date and time."""
    target_columns: tuple[str, ...] = ()
    past_covariate_columns: tuple[str, ...] = ()
    future_covariate_columns: tuple[str, ...] = ()
    static_columns: tuple[str, ...] = ()
    freq: str | None = None
    timezone: str | None = None
    """Zone of times written without one."""
    timestamp_format: str | None = None
    """strptime pattern such as "%d/%m/%Y %H:%M", or one of the names listed in docs/data.md ("epoch_s", "integer")."""
    duplicates: str = "error"
    """What to do with repeated (item_id, timestamp): error | first | last | mean | sum."""

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """Checked options from JSON; `ConfigError` names the field and the known ones."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise ConfigError(
                    f"There is no reading option named {name!r}. Known: {', '.join(sorted(known))}.",
                    code="unknown_field",
                    param=name,
                )
            if value is not None:
                values[name] = _checked(name, value)
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready, every field present."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Columns named by the caller, by option name."""
        stamp = self.timestamp_column
        return {
            "id_column": (self.id_column,) if self.id_column is not None else (),
            "timestamp_column": () if stamp is None else (stamp,) if isinstance(stamp, str) else stamp,
            "target_columns": self.target_columns,
            "past_covariate_columns": self.past_covariate_columns,
            "future_covariate_columns": self.future_covariate_columns,
            "static_columns": self.static_columns,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one file; crossing one is a refusal that names it."""

    max_bytes: int = 2 * 1024**3
    max_decompressed_bytes: int = 8 * 1024**3
    max_rows: int = 100_000_000
    max_series: int = 100_000
    max_columns: int = 10_000
    max_cell_bytes: int = 64 * 1024
    memory_bytes: int = 1024**3
    """Memory the parser may hold; beyond it, it sorts on disk."""
    threads: int = 2

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """Limits from JSON; `ConfigError` on an unknown name or a value that is not a positive integer."""
        known = {f.name for f in fields(cls)}
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"There is no limit named {name!r}.", code="unknown_field", param=name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a positive integer.", code="invalid_limit", param=name)
        return cls(**given)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready, every field present."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_LISTS = frozenset({"target_columns", "past_covariate_columns", "future_covariate_columns", "static_columns"})


def _checked(name: str, value: Any) -> Any:
    """One option in its own type, or `ConfigError` naming it."""
    if name in _LISTS:
        names = (value,) if isinstance(value, str) else value
        if isinstance(names, list | tuple) and all(isinstance(n, str) for n in names):
            return tuple(names)
        raise ConfigError(f"{name} must be a column name or a list of them.", code="invalid_option", param=name)
    if name == "timestamp_column" and isinstance(value, list | tuple):
        if len(value) == 1 and isinstance(value[0], str):
            return value[0]
        if len(value) == 2 and all(isinstance(n, str) for n in value):
            return (value[0], value[1])
        raise ConfigError(
            "timestamp_column must be one column name, or two (date and time).", code="invalid_option", param=name
        )
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string.", code="invalid_option", param=name)
    if name == "duplicates" and value not in DUPLICATES:
        raise ConfigError(
            f"duplicates must be one of {', '.join(DUPLICATES)}, not {value!r}.", code="invalid_option", param=name
        )
    return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
