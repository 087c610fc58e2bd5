"""Prefixed, opaque, unguessable ids. The prefix says what kind of object it is; nothing else is encoded."""

import os
import secrets
import threading
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 24  # 124 bits

FILE = "file-"
UPLOAD = "upload_"
PART = "part_"
JOB = "ftjob-"
EVENT = "ftevent-"
CHECKPOINT = "ftckpt_"
MODEL = "model-"
VERSION = "mv-"
KEY = "key-"
TENANT = "tenant-"
REQUEST = "req_"
MEASUREMENT = "measure-"


class _Randomness:
    """The system's random bytes, drawn many at a time.

    A system call costs a request more than the rest of its id, and gives up the interpreter lock, which must then be
    won back from the thread that computes forecasts.
    """

    _DRAWN = 4_096

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = b""
        os.register_at_fork(after_in_child=self.forget)  # parent and child must not hand out the same bytes

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._left = b""

    def take(self, count: int) -> bytes:
        with self._lock:
            if len(self._left) < count:
                self._left = secrets.token_bytes(self._DRAWN)
            taken, self._left = self._left[:count], self._left[count:]
        return taken


_randomness = _Randomness()


def new_id(prefix: str, *, length: int = _LENGTH) -> str:
    """`prefix` and `length` random lower-case letters and digits.

    Six bits per character and eight bytes to spare leave no bias worth the name (2^-61).
    """
    number = int.from_bytes(_randomness.take(length * 6 // 8 + 8))
    characters = []
    for _ in range(length):
        number, rest = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[rest])
    return prefix + "".join(characters)


def utc_now() -> datetime:
    return datetime.now(UTC)


def unix_seconds(moment: datetime) -> int:
    """What the API shows as `created_at`."""
    return int(moment.timestamp())
