"""Prefixed, opaque, unguessable ids. The prefix says what kind of object it is; nothing else is encoded."""

import secrets
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 24  # 124 bits

FILE = "file-"
JOB = "ftjob-"
EVENT = "ftevent-"
CHECKPOINT = "ftckpt_"
MODEL = "model-"
VERSION = "mv-"
KEY = "key-"
TENANT = "tenant-"
REQUEST = "req_"


def new_id(prefix: str, *, length: int = _LENGTH) -> str:
    """`prefix` and `length` random lower-case letters and digits.

    One system call for all of them: each gives up the interpreter lock, which a request must then win back from the
    thread that computes forecasts. Six bits per character and eight to spare leave no bias worth the name (2^-61).
    """
    number = int.from_bytes(secrets.token_bytes(length * 6 // 8 + 8))
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
