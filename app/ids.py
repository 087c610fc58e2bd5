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
    """`prefix` and `length` random lower-case letters and digits."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))


def utc_now() -> datetime:
    return datetime.now(UTC)


def unix_seconds(moment: datetime) -> int:
    """What the API shows as `created_at`."""
    return int(moment.timestamp())
