"""Round trips: a frame written in a random dialect is read back as it was."""

import csv
import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tsfm.series.conftest import Reader
from tests.tsfm.series.frames import frame_of
from tsfm.errors import ConfigError, DataError
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame

NAMES = st.lists(
    st.text(st.sampled_from("abcXYZ é%._-'\"|/"), min_size=1, max_size=6)
    .map(str.strip)
    .filter(lambda s: s != "" and any(c.isalpha() for c in s)),
    min_size=2,
    max_size=4,
    unique=True,
)
PATTERNS = {
    "h": ["%Y-%m-%d %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p", "%Y-%m-%dT%H:%M"],
    "15min": ["%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M:%S"],
    "D": ["%Y-%m-%d", "%d/%m/%Y", "%Y%m%d", "%d-%b-%Y"],
    "MS": ["%Y-%m-%d", "%Y-%m", "%b %Y"],
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[SeriesFrame, bytes, bool]:
    names = draw(NAMES)
    freq = draw(st.sampled_from(sorted(PATTERNS)))
    wide = draw(st.booleans())
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    size = int(rng.integers(45, 80))
    lengths = [size] * len(names) if wide else rng.integers(30, 80, len(names)).tolist()
    series = [np.round(rng.normal(size=n) * 1000, 3) for n in lengths]
    for values in series:
        values[1:-1][rng.random(len(values) - 2) < 0.1] = np.nan
    plain = frame_of(*series, freq=freq, starts=["2019-02-01" if freq == "MS" else "2019-01-20"] * len(names))
    frame = SeriesFrame(
        item_ids=tuple(names), values=plain.values, offsets=plain.offsets, starts=plain.starts, freq=freq
    )
    delimiter, decimal = draw(st.sampled_from([(",", "."), (";", "."), (";", ","), ("\t", "."), ("|", ".")]))
    return frame, _write(frame, draw, wide=wide, delimiter=delimiter, decimal=decimal, rng=rng), wide


def _write(
    frame: SeriesFrame, draw: st.DrawFn, *, wide: bool, delimiter: str, decimal: str, rng: np.random.Generator
) -> bytes:
    pattern = draw(st.sampled_from(PATTERNS[frame.freq]))
    null = draw(st.sampled_from(["", "NA", "NaN", "null"]))
    freq = frequencies.parse(frame.freq)
    out = io.StringIO()
    writer = csv.writer(
        out,
        delimiter=delimiter,
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )

    def cell(value: float) -> str:
        return null if np.isnan(value) else repr(float(value)).replace(".", decimal)

    rows = []
    for i, name in enumerate(frame.item_ids):
        stamps = freq.timestamps(int(frame.starts[i]), int(frame.lengths[i])).astype("datetime64[us]").tolist()
        rows += [(name, t.strftime(pattern), cell(v)) for t, v in zip(stamps, frame.series(i), strict=True)]
    if wide:
        width = len(frame.item_ids)
        size = len(rows) // width
        writer.writerow(["date", *frame.item_ids])
        lines = [[rows[k][1], *(rows[i * size + k][2] for i in range(width))] for k in range(size)]
    else:
        writer.writerow(["unique_id", "ds", "y"])
        lines = [list(row) for row in rows]
    if draw(st.booleans()):
        lines = [lines[k] for k in rng.permutation(len(lines))]
    writer.writerows(lines)
    data = (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + out.getvalue().encode()
    pack = draw(st.sampled_from(["", "gzip", "zstd"]))
    return gzip.compress(data, mtime=0) if pack == "gzip" else zstandard.compress(data) if pack == "zstd" else data


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(table=tables())
def test_what_was_written_is_read(table: tuple[SeriesFrame, bytes, bool]) -> None:
    frame, data, wide = table
    with tempfile.TemporaryDirectory() as folder:
        reading, found = Reader(Path(folder))(data)
    assert reading["layout"] == ("wide" if wide else "long")
    assert found.freq == frame.freq
    order = [frame.item_ids.index(name) for name in found.item_ids]
    expected = frame.take(order)
    assert found.item_ids == expected.item_ids
    assert found.starts.tolist() == expected.starts.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert np.array_equal(found.values, expected.values, equal_nan=True)
    assert reading["missing"]["count"] == int(np.isnan(frame.values).sum())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=300) | st.text("a1,;.-\n\r\"'\t|2020 :T/é", max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            reading, frame = Reader(Path(folder))(data)
        except (DataError, ConfigError) as error:
            refusal = error
        else:
            assert reading["num_series"] == len(frame)
            return
    assert refusal.code
    assert refusal.message
