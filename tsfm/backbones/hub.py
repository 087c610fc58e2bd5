"""Published files from a model hub, through `huggingface_hub`: at one commit, resumable, each by the hub's own digest.

A download that broke off goes on where it stopped, also in another process: its beginning lies beside as `.part`. (The
library's own `hf_hub_download` starts anew, so only its addresses, metadata and streaming are used.) `HF_ENDPOINT`,
`HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to the library.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from tsfm.artifact import file_sha256
from tsfm.errors import WeightsError
from tsfm.spec import BackboneSpec

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_REASON_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """How far one file is."""

    name: str
    done_bytes: int
    total_bytes: int | None


Watch = Callable[[Download], None]
"""Told after every chunk; whatever it raises ends the download, which can be gone on with later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remote:
    """A file as the hub describes it."""

    name: str
    url: str
    commit: str
    etag: str
    """sha256 of a large file, git's blob hash of a small one."""
    size: int | None


def fetch(
    spec: BackboneSpec, folder: Path, *, revision: str | None, watch: Watch, endpoint: str | None = None
) -> tuple[str, dict[str, Path]]:
    """Downloads the files of `spec` into `folder`; answers the commit they are from and where each lies.

    `revision` overrides the catalogue's. Every file is what the hub says it is, or `WeightsError`: also when the hub
    cannot be reached, with what to do instead. `folder` keeps what was fetched, for the next try.
    """
    if spec.repo is None or spec.pickled:
        raise WeightsError(f"{spec.name} is on no model hub: {by_hand(spec)}.", code="weights_unreachable")
    wanted = revision or spec.revision or "main"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    with _said_plainly(spec, wanted, endpoint):
        commit = wanted
        for name in spec.files:
            remote = _describe(spec.repo, name, commit, endpoint)
            if _COMMIT.fullmatch(commit) and remote.commit != commit:
                raise WeightsError(f"The hub answers commit {remote.commit} where {commit} was asked for.")
            commit = remote.commit
            found[name] = _download(remote, folder, watch)
    return commit, found


def by_hand(spec: BackboneSpec) -> str:
    """What to do where no hub can be reached."""
    source = f" of {spec.repo} at revision {spec.revision}" if spec.repo else ""
    consent = " --accept-license" if spec.non_commercial else ""
    return (
        f"fetch {' and '.join(spec.files)}{source} on a machine that reaches them, copy them here, and run "
        f"`temper backbones add {spec.name} --path FOLDER{consent}`"
    )


def _describe(repo: str, name: str, revision: str, endpoint: str | None) -> _Remote:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    about = get_hf_file_metadata(hf_hub_url(repo, name, revision=revision, endpoint=endpoint), endpoint=endpoint)
    if about.commit_hash is None or about.etag is None:
        raise WeightsError(f"{endpoint or 'The hub'} says neither commit nor digest of {name}: it is no model hub.")
    url = hf_hub_url(repo, name, revision=about.commit_hash, endpoint=endpoint)
    return _Remote(name=name, url=url, commit=about.commit_hash, etag=about.etag, size=about.size)


def _download(remote: _Remote, folder: Path, watch: Watch) -> Path:
    """The whole file, gone on with where an earlier try of the same content stopped."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not re-exported

    done = folder / Path(remote.name).name
    if done.is_file() and _digest_like(done, remote.etag) == remote.etag:
        return done
    part = folder / f"{done.name}.{remote.etag[:16]}.part"
    with part.open("ab") as file:
        if remote.size is not None and file.tell() > remote.size:
            file.truncate(0)
        http_get(
            remote.url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=remote.size,
            displayed_filename=remote.name,
            tqdm_class=cast(Any, _bar(remote, watch)),
        )
        file.flush()
        os.fsync(file.fileno())
    if (digest := _digest_like(part, remote.etag)) != remote.etag:
        part.unlink()
        raise WeightsError(
            f"{remote.name} arrived with digest {digest}, but the hub names {remote.etag}: fetch it again.",
            code="weights_digest_mismatch",
        )
    part.replace(done)
    return done


def _digest_like(path: Path, etag: str) -> str:
    """The file's digest of the kind that `etag` is."""
    if _SHA256.fullmatch(etag):
        return file_sha256(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _bar(remote: _Remote, watch: Watch) -> type:
    """What the library takes for a progress bar: it tells `watch` instead of drawing."""

    class Bar:
        def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
            self._done = initial

        def update(self, count: int) -> None:
            self._done += count
            watch(Download(name=remote.name, done_bytes=self._done, total_bytes=remote.size))

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    return Bar


@contextmanager
def _said_plainly(spec: BackboneSpec, revision: str, endpoint: str | None) -> Iterator[None]:
    """What can go wrong on the way to a hub, as one sentence that says what to do."""
    from huggingface_hub import constants, errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, as it uses
    try:
        yield
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError | errors.HfHubHTTPError):
            raise  # the disk's
        raise _unreachable(spec, revision, endpoint or constants.ENDPOINT, error) from error
    except http_error as error:
        raise _unreachable(spec, revision, endpoint or constants.ENDPOINT, error) from error


def _unreachable(spec: BackboneSpec, revision: str, where: str, error: Exception) -> WeightsError:
    reason = str(error).strip().partition("\n")[0][:_MAX_REASON_CHARS] or type(error).__name__
    return WeightsError(
        f"{spec.repo} at revision {revision} could not be fetched from {where} ({reason}): {by_hand(spec)}.",
        code="weights_unreachable",
    )
