"""An artifact as a zip, streamed: made chunk by chunk, the same bytes for the same digest."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

CHUNK_BYTES = 1 << 18
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The oldest time a zip can hold: no clock gets into the bytes."""


class _Sink:
    """A write-only stream whose bytes are taken out between writes."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The end of the archive is only its last bytes."""

    def drain(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        return data


def zip_stream(folder: Path, files: Mapping[str, str], *, root: str) -> Iterator[bytes]:
    """The files under `root/` in a stored (uncompressed) zip. They are opened before the first chunk is asked for."""
    with ExitStack() as opening:
        handles = [(path, opening.enter_context((folder / path).open("rb"))) for path in sorted(files)]
        keep_open = opening.pop_all()

    def chunks() -> Iterator[bytes]:
        sink = _Sink()
        with keep_open, zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            for path, handle in handles:
                entry = zipfile.ZipInfo(f"{root}/{path}", date_time=_EPOCH)
                with archive.open(entry, "w", force_zip64=True) as out:
                    while data := handle.read(CHUNK_BYTES):
                        out.write(data)
                        yield sink.drain()
        yield sink.drain()

    return chunks()
