"""The service over HTTP, as the commands see it: JSON in, JSON out, and failures that can be read.

CommandError            anything a command cannot go on from; carries the exit code
├── Unreachable         no service answers at the address
└── Refused             the service answered with an error; carries its body
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
EXIT_JOB_FAILED = 4
DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(10.0, read=300.0, write=300.0)
PAGE_SIZE = 100
UPLOAD_CHUNK_BYTES = 1 << 20


class CommandError(Exception):
    """What went wrong, and what to do about it, in plain words."""

    def __init__(self, message: str, *, mend: str | None = None, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend
        self.exit_code = exit_code

    def to_mapping(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "mend": self.mend}}


class Unreachable(CommandError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"No Temper service answers at {url} ({reason}).",
            mend="Start one with `temper serve`, or name another with --url or TEMPER_URL.",
            exit_code=EXIT_UNREACHABLE,
        )


class Refused(CommandError):
    """An error answer of the service: its status, its error object, and the id to quote."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.request_id = response.headers.get("x-request-id")
        self.error = _error_of(response)
        mend = None
        if self.status == 401:
            mend = "Set TEMPER_API_KEY, or point --home at the service's home: its key lies in HOME/api_key."
        super().__init__(str(self.error.get("message") or f"HTTP {self.status}"), mend=mend)

    def to_mapping(self) -> dict[str, Any]:
        return {"error": {**self.error, "status": self.status, "request_id": self.request_id}}


def _error_of(response: httpx.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": f"HTTP {response.status_code}: {response.text[:200].strip() or response.reason_phrase}"}
    return dict(error) if isinstance(error, Mapping) else {"message": str(error)}


class Client:
    """One service at one address with one key. Use it as a context manager."""

    def __init__(self, url: str, api_key: str | None, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request; `Refused` for a status of 400 and above, `Unreachable` where nothing answers."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TimeoutException as error:
            raise CommandError(f"{self.url}{path} did not answer in time.") from error
        except httpx.TransportError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error
        except httpx.InvalidURL as error:
            raise CommandError(
                f"{self.url!r} is not an address ({error}).", mend="Write it as http://host:port."
            ) from error
        if response.status_code >= 400:
            raise Refused(response)
        return response

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        chosen = {name: value for name, value in params.items() if value is not None}
        return _object(self.request("GET", path, params=chosen))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _object(self.request("POST", path, json=body))

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _object(self.request("PUT", path, json=body))

    def stream_to(self, path: str, sink: BinaryIO, **params: Any) -> None:
        """A large answer straight into a file."""
        try:
            with self._http.stream("GET", path, params=params) as response:
                if response.status_code >= 400:
                    response.read()
                    raise Refused(response)
                for chunk in response.iter_bytes():
                    sink.write(chunk)
        except httpx.TransportError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error

    def delete(self, path: str) -> dict[str, Any]:
        response = self.request("DELETE", path)
        return _object(response) if response.content else {"deleted": True}

    def pages(self, path: str, *, limit: int, **params: Any) -> list[dict[str, Any]]:
        """Up to `limit` objects of a list, newest first, over as many pages as that takes."""
        found: list[dict[str, Any]] = []
        after = None
        while len(found) < limit:
            page = self.get(path, limit=min(PAGE_SIZE, limit - len(found)), after=after, **params)
            found += page["data"]
            if not page.get("has_more") or not page["data"]:
                break
            after = page.get("last_id") or page["data"][-1]["id"]
        return found

    def upload(self, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Streams a file to `POST /v1/files` from disk; `options` are column roles as query parameters."""
        params = {"filename": path.name, **{name: value for name, value in options.items() if value is not None}}
        with path.open("rb") as source:
            chunks = iter(lambda: source.read(UPLOAD_CHUNK_BYTES), b"")
            headers = {"content-type": "application/octet-stream", "content-length": str(path.stat().st_size)}
            return _object(self.request("POST", "/v1/files", params=params, content=chunks, headers=headers))

    def ask_with_file(self, path: str, file: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A form with a file from disk; lists become repeated fields."""
        with file.open("rb") as source:
            return _object(self.request("POST", path, files={"file": (file.name, source)}, data=fields))

    def events(self, path: str, *, after: str | None = None) -> Iterator[dict[str, Any]]:
        """Server-sent events of a job as they come, until the service closes the stream."""
        headers = {"accept": "text/event-stream", **({"last-event-id": after} if after else {})}
        timeout = httpx.Timeout(10.0, read=60.0)  # the service sends a comment every 15 s
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                    raise Refused(response)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx.TransportError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CommandError(f"{response.url} did not answer with a JSON object. Is it a Temper service?")
    return value
