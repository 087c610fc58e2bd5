"""A reader that takes text, bytes or a path and gives the reading and the frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tsfm.errors import ConfigError, DataError
from tsfm.series.frame import SeriesFrame
from tsfm.series.load import load_frame
from tsfm.series.options import Limits, ReadOptions
from tsfm.series.read import read_file


@dataclass(frozen=True)
class Reader:
    folder: Path

    def __call__(
        self, source: str | bytes | Path, *, limits: Limits | None = None, **options: Any
    ) -> tuple[dict[str, Any], SeriesFrame]:
        path = source if isinstance(source, Path) else self.folder / "input"
        if isinstance(source, str):
            path.write_bytes(source.encode())
        elif isinstance(source, bytes):
            path.write_bytes(source)
        out = self.folder / "series.parquet"
        reading = read_file(
            path,
            filename=None,
            options=ReadOptions.from_mapping(options),
            limits=limits or Limits(),
            out=out,
            work_dir=self.folder,
        )
        return reading, load_frame(out, reading)

    def refused(self, source: str | bytes | Path, **options: Any) -> DataError | ConfigError:
        """The refusal; nothing may be left behind."""
        out = self.folder / "series.parquet"
        out.unlink(missing_ok=True)
        with pytest.raises((DataError, ConfigError)) as caught:
            self(source, **options)
        assert {p.name for p in self.folder.iterdir()} <= {"input"}, "a refusal leaves files behind"
        return caught.value


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


@pytest.fixture(scope="session")
def repository_text() -> dict[str, str]:
    """Sources of the reader and its page, by path."""
    root = Path(__file__).resolve().parents[3]
    paths = [root / "docs" / "data.md", *sorted((root / "tsfm" / "series").glob("*.py"))]
    return {str(path.relative_to(root)): path.read_text() for path in paths}
