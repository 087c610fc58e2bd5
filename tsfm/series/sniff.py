"""What a file is, from its bytes and never its name: compression, Parquet or text, encoding, line ends.

The answer is a plain file that DuckDB can read. Decompression counts its output, so that a bomb stops at the limit.
"""

import codecs
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tsfm.errors import DataError
from tsfm.series.options import Limits
from tsfm.series.problems import refusal

_CHUNK = 4 * 1024**2
_SPARE_LINES = 10_000
"""Lines that hold no point: the header, comments, blank ones."""
_ZSTD_PIECE = 2048
"""zstd can blow a piece up 32,768 times; 2 KiB keeps one step's output below 64 MiB."""
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7-zip archive",
    b"%PDF": "a PDF document",
    b"\x89PNG": "an image",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow (Feather) file",
    b"SQLite format 3": "an SQLite database",
}
Read = Callable[[int], bytes]

_MEND = "Send CSV (UTF-8) or Parquet, plain or compressed with gzip or zstd."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A decompressed file and what it is."""

    path: Path
    format: str
    """"csv" or "parquet"."""
    compression: str | None
    encoding: str | None
    """"utf-8" or "utf-8-sig"; None for Parquet."""
    num_bytes: int
    num_lines: int
    """Lines of text; 0 for Parquet."""


def open_plain(path: Path, *, limits: Limits, work_dir: Path) -> Plain:
    """Identify `path`, decompress it into `work_dir` where needed, and check that text is UTF-8.

    Raises `DataError`: `empty_file`, `too_large`, `truncated`, `unsupported_format`, `unsupported_encoding`, `binary`.
    """
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise _too_large("The file", limits.max_bytes)
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise refusal(
            "empty_file", "The file is empty (0 bytes).", "Send a CSV with a header line and rows, or Parquet."
        )
    compression = "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else None
    plain = path
    if compression is not None:
        plain = work_dir / "plain"
        _decompress(path, plain, compression=compression, limit=limits.max_decompressed_bytes)
        with plain.open("rb") as file:
            head = file.read(16)
        if not head:
            raise refusal("empty_file", f"The {compression} file holds nothing.", "Send a CSV with a header and rows.")
    if head.startswith(_PARQUET):
        _check_parquet_tail(plain)
        return Plain(
            path=plain,
            format="parquet",
            compression=compression,
            encoding=None,
            num_bytes=plain.stat().st_size,
            num_lines=0,
        )
    return _open_text(plain, head, compression=compression, limits=limits, work_dir=work_dir)


def _decompress(source: Path, target: Path, *, compression: str, limit: int) -> None:
    written = 0
    with source.open("rb") as file, target.open("wb") as out:
        for chunk in _gunzip(file.read) if compression == "gzip" else _unzstd(file.read):
            written += len(chunk)
            if written > limit:
                raise _too_large("The file, once decompressed,", limit)
            out.write(chunk)


def _gunzip(read: Read) -> Iterator[bytes]:
    """Members of a gzip file, one after another, each output bounded."""
    stream = zlib.decompressobj(31)
    pending = read(_CHUNK)
    try:
        while pending:
            yield stream.decompress(pending, _CHUNK)
            if stream.eof:
                pending = stream.unused_data or read(_CHUNK)
                if not pending.strip(b"\0"):
                    return
                stream = zlib.decompressobj(31)
            else:
                pending = stream.unconsumed_tail or read(_CHUNK)
    except zlib.error as error:
        raise refusal(
            "truncated", f"The gzip data are damaged ({error}).", "Compress and send the file again."
        ) from error
    if not stream.eof:
        raise refusal("truncated", "The gzip file ends before its data do.", "The upload was cut short: send it again.")


def _unzstd(read: Read) -> Iterator[bytes]:
    stream = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    pending = read(_ZSTD_PIECE)
    try:
        while pending:
            yield stream.decompress(pending)
            if stream.eof:
                pending = stream.unused_data or read(_ZSTD_PIECE)
                if pending:
                    stream = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
            else:
                pending = read(_ZSTD_PIECE)
    except zstandard.ZstdError as error:
        raise refusal(
            "truncated", f"The zstd data are damaged ({error}).", "Compress and send the file again."
        ) from error
    if not stream.eof:
        raise refusal("truncated", "The zstd file ends before its data do.", "The upload was cut short: send it again.")


def _open_text(plain: Path, head: bytes, *, compression: str | None, limits: Limits, work_dir: Path) -> Plain:
    _refuse_foreign(plain, head)
    scan = _scan_text(plain, max_lines=limits.max_rows + _SPARE_LINES)
    if not scan.has_text:
        raise refusal("empty_file", "The file holds only blank lines.", "Send a CSV with a header line and rows.")
    path = plain
    if scan.line_ends > 1 or scan.lone_returns:
        # DuckDB's reader stops at mixed line ends; old Mac files end lines with a carriage return alone.
        path = work_dir / "lines"
        _rewrite_line_ends(plain, path)
    return Plain(
        path=path,
        format="csv",
        compression=compression,
        encoding="utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-8",
        num_bytes=path.stat().st_size,
        num_lines=scan.num_lines,
    )


def _refuse_foreign(path: Path, head: bytes) -> None:
    with path.open("rb") as file:
        start = file.read(4096)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise refusal("unsupported_format", f"The file is {what}, not CSV or Parquet.", _MEND)
    stripped = start.lstrip(codecs.BOM_UTF8).lstrip()
    if stripped[:1] in (b"{", b"[") and b'"' in stripped[:64]:
        raise refusal("unsupported_format", "The file looks like JSON, not CSV or Parquet.", _MEND)
    if stripped[:1] == b"<" and re.match(rb"<(!doctype|html|\?xml|table)", stripped, re.IGNORECASE):
        raise refusal("unsupported_format", "The file is an HTML or XML document, not CSV or Parquet.", _MEND)
    wide = _utf16(start)
    if wide is not None:
        raise refusal(
            "unsupported_encoding",
            f"The file is {wide}, not UTF-8.",
            f"Save it as UTF-8, for example: iconv -f {wide} -t UTF-8 data.csv > data-utf8.csv.",
        )


def _utf16(start: bytes) -> str | None:
    """The UTF-16 or UTF-32 flavour of text, by its byte order mark or by where its zero bytes lie."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    even, odd = start[0::2], start[1::2]
    if len(start) >= 4:
        if odd.count(0) > 0.8 * len(odd) and even.count(0) < 0.2 * len(even):
            return "UTF-16LE"
        if even.count(0) > 0.8 * len(even) and odd.count(0) < 0.2 * len(odd):
            return "UTF-16BE"
    return None


@dataclass(slots=True)
class _TextScan:
    num_lines: int = 0
    pairs: int = 0
    feeds: int = 0
    returns: int = 0
    has_text: bool = False

    @property
    def line_ends(self) -> int:
        """How many kinds of line end the file mixes."""
        return (self.pairs > 0) + (self.feeds > self.pairs) + (self.returns > self.pairs)

    @property
    def lone_returns(self) -> bool:
        return self.returns > self.pairs


def _scan_text(path: Path, *, max_lines: int) -> _TextScan:
    """One pass over the file: valid UTF-8, no zero bytes, what ends its lines; stops where these are too many."""
    scan = _TextScan()
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, last = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            _refuse_zero_bytes(chunk, offset, scan.feeds)
            carried = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset - carried + error.start) from error
            scan.feeds += chunk.count(b"\n")
            if scan.feeds > max_lines:
                raise refusal(
                    "too_many_rows",
                    f"The file holds more lines than the limit of {max_lines - _SPARE_LINES:,} points.",
                    "Split it into several files.",
                )
            if b"\r" in chunk or last == b"\r":
                scan.returns += chunk.count(b"\r")
                scan.pairs += chunk.count(b"\r\n") + (last == b"\r" and chunk[:1] == b"\n")
            scan.has_text = scan.has_text or bool(chunk.lstrip(codecs.BOM_UTF8).strip())
            offset += len(chunk)
            last = chunk[-1:]
    if decoder.getstate()[0]:
        raise _not_utf8(path, offset - len(decoder.getstate()[0]))
    scan.num_lines = scan.feeds + scan.returns - scan.pairs + (last not in b"\r\n")
    return scan


def _refuse_zero_bytes(chunk: bytes, offset: int, lines: int) -> None:
    at = chunk.find(b"\0")
    if at >= 0:
        raise refusal(
            "binary",
            f"Byte {offset + at} is zero, so this is not a text file.",
            _MEND,
            row=lines + chunk.count(b"\n", 0, at) + 1,
        )


def _not_utf8(path: Path, offset: int) -> DataError:
    """What to say of the first byte that is not UTF-8: its place, and how the line reads as Latin-1."""
    line, start, position = 1, 0, 0
    with path.open("rb") as file:
        while position < offset:
            chunk = file.read(min(_CHUNK, offset - position))
            line += chunk.count(b"\n")
            if b"\n" in chunk:
                start = position + chunk.rfind(b"\n") + 1
            position += len(chunk)
        file.seek(start)
        raw = file.readline(4096).rstrip(b"\r\n")
    controls = sum(byte < 32 and byte not in b"\t\r\n" for byte in raw)
    if controls > 2:
        return refusal("binary", f"Byte {offset} and the bytes around it are not text.", _MEND, row=line)
    text = raw.decode("cp1252", errors="replace")
    return refusal(
        "unsupported_encoding",
        f"Byte {offset} (line {line}) is not UTF-8; as Windows-1252 (Latin-1) the line reads {text[:120]!r}.",
        "Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 data.csv > data-utf8.csv.",
        row=line,
        value=text[:120],
    )


def _rewrite_line_ends(source: Path, target: Path) -> None:
    held = b""
    with source.open("rb") as file, target.open("wb") as out:
        while chunk := file.read(_CHUNK):
            chunk = held + chunk
            held = b"\r" if chunk.endswith(b"\r") else b""
            body = chunk[: len(chunk) - len(held)]
            out.write(body.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        out.write(b"\n" if held else b"")


def _check_parquet_tail(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4, 0))
        if path.stat().st_size < 12 or file.read(4) != _PARQUET:
            raise refusal("truncated", "The Parquet file lacks its end.", "The upload was cut short: send it again.")


def _too_large(what: str, limit: int) -> DataError:
    return refusal(
        "too_large",
        f"{what} is larger than the limit of {limit:,} bytes.",
        "Split it into several files, or have the operator raise the limit.",
    )
