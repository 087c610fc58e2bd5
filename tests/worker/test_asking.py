"""What a run asks for before it judges: its incumbent's artifact, and the number of its verdict."""

import threading
from pathlib import Path
from typing import Any

import pytest

from app.storage import ObjectStore, blob_key
from tsfm.errors import ArtifactError, Cancelled
from worker.asking import Answers, PriorVerdicts
from worker.run_job import _fetched

ROWS = "sha256:rows"


def never() -> str | None:
    return None


def test_the_number_is_asked_for_once_and_counts_those_before() -> None:
    said: list[tuple[str, Any]] = []
    answers = Answers()

    def speak(kind: str, content: Any) -> None:
        said.append((kind, content))
        threading.Timer(0.01, answers.take, ["verdict_number 3"]).start()

    prior = PriorVerdicts(speak, answers, never)
    assert [prior.get(ROWS, 0), prior[ROWS]] == [2, 2]
    assert said == [("judging", {"test_sha256": ROWS})]
    assert dict(prior) == {ROWS: 2}


def test_an_order_ends_the_waiting() -> None:
    prior = PriorVerdicts(lambda kind, content: None, Answers(), lambda: "cancel")
    with pytest.raises(Cancelled) as caught:
        prior[ROWS]
    assert caught.value.code == "cancel"


def test_an_order_is_no_answer() -> None:
    assert [Answers().take(line) for line in ("cancel", "verdict_number 7")] == [False, True]


def test_a_damaged_incumbent_is_an_error_of_the_job_that_names_it(tmp_path: Path) -> None:
    store = ObjectStore("memory:///")
    sha256 = "ab" * 32
    store.put_bytes(blob_key(sha256), b"not what it was")
    standing = {"name": "ft:x", "version": 4, "digest": "sha256:" + "c" * 64, "files": {"manifest.json": sha256}}
    with pytest.raises(ArtifactError) as caught:
        _fetched(store, tmp_path, standing)
    assert (caught.value.code, caught.value.param) == ("artifact_damaged", "register_as")
