"""multipart/form-data with one streamed part, `file` by default; every other part is a short text field.

Starlette's own form parser would spool the file without a limit and make us copy it (stack.md §3); the tokenising is
python-multipart's.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

MAX_FIELDS = 200
MAX_FIELD_BYTES = 256 * 1024
FILE_PART = "file"


class MultipartReader:
    """`feed` the body in chunks, then `finish`; afterwards `filename` and `fields` stand."""

    def __init__(self, content_type: str, *, on_file_data: Callable[[bytes], None], file_part: str = FILE_PART) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise _malformed("the content type names no boundary")
        self.filename: str | None = None
        self.fields: dict[str, list[str]] = {}
        self._on_file_data = on_file_data
        self._file_part = file_part
        self._has_file = False
        self._complete = False
        self._in_file = False
        self._name = ""
        self._text = bytearray()
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> None:
        """400 when the closing boundary never came, 422 without the file's part."""
        if not self._complete:
            raise _malformed("it ends before its closing boundary (a truncated upload)")
        if not self._has_file:
            message = f"The form has no part named `{self._file_part}`."
            raise ApiError(422, "missing_file", message, param=self._file_part)

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._text = bytearray()
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _malformed("a part has no name")
        self._name = _text(options[b"name"])
        self._in_file = self._name == self._file_part
        if self._in_file:
            if self._has_file:
                message = f"Send one file: `{self._file_part}` is there twice."
                raise ApiError(422, "invalid_request", message, param=self._file_part)
            self._has_file = True
            self.filename = _text(options[b"filename"]) if b"filename" in options else None
        elif b"filename" in options:
            message = f"Unknown file part {self._name!r}: the file goes into the part `{self._file_part}`."
            raise ApiError(422, "unknown_field", message, param=self._name)
        elif sum(map(len, self.fields.values())) >= MAX_FIELDS:
            raise ApiError(413, "too_large", f"The form has more than {MAX_FIELDS} fields.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._on_file_data(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MAX_FIELD_BYTES:
            raise ApiError(413, "too_large", f"{self._name}: over {MAX_FIELD_BYTES:,} bytes.", param=self._name)

    def _on_part_end(self) -> None:
        if not self._in_file:
            self.fields.setdefault(self._name, []).append(_text(bytes(self._text)))

    def _on_end(self) -> None:
        self._complete = True


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _malformed("a name or a field is not UTF-8") from error


def _malformed(reason: str) -> ApiError:
    return ApiError(400, "malformed_multipart", f"The multipart body is malformed: {reason}.")
