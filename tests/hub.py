"""A model hub of one repository on localhost, speaking what `huggingface_hub` asks of one to download a file.

As on the real one, small files come from the repository's own address and large ones from a store that it redirects to.
`cut_at` breaks the connection off after so many bytes of the next large answer; `lies` makes it name another digest
than the content has; `asked` lists (method, path, Range) of every request.
"""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1024
STORE = "/store/"


@dataclass(kw_only=True)
class Hub:
    repo: str
    files: dict[str, bytes]
    revision: str = "main"
    cut_at: int | None = None
    cuts: int = 1
    lies: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def etag(self, data: bytes) -> str:
        """As the hub has it: sha256 of large files, git's blob hash of small ones."""
        if len(data) >= LARGE_BYTES:
            return hashlib.sha256(data + (b"?" if self.lies else b"")).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """`hub` answers at `hub.url` for as long as this lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            wanted = self.headers.get("Range")
            hub.asked.append((self.command, self.path, wanted))
            stored = self.path.removeprefix(STORE)
            found = next((f for f in hub.files if self.path in places(f)), stored if stored in hub.files else None)
            if found is None:
                self.without_body(404, {"X-Error-Code": "EntryNotFound"})
                return
            data = hub.files[found]
            if len(data) >= LARGE_BYTES and stored != found:
                about = {
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Size": str(len(data)),
                    "X-Linked-Etag": f'"{hub.etag(data)}"',
                }
                self.without_body(302, {**about, "Location": f"{hub.url}{STORE}{found}"})
                return
            begin = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            body = data[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("ETag", f'"{hub.etag(data)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not with_body:
                return
            if hub.cut_at is not None and hub.cuts and len(data) >= LARGE_BYTES:
                hub.cuts -= 1
                self.wfile.write(body[: hub.cut_at])
                self.close_connection = True
                return
            self.wfile.write(body)

        def without_body(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    def places(name: str) -> tuple[str, ...]:
        return tuple(f"/{hub.repo}/resolve/{revision}/{name}" for revision in (hub.revision, COMMIT))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
