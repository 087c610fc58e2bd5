"""Bodies and errors as the client sends and reads them."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import zstandard
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from app.errors import ApiError, as_api_error, error_body, validation_error
from app.faces.nixtla.schemas import WireModel
from app.forecasts.parse import validated
from tsfm.errors import TemperError

Sent = TypeVar("Sent", bound=WireModel)
MAX_DECODED_BYTES = 200 << 20
"""The client sends no more JSON than this, compressed from 1 MiB on."""
MAX_DECODED_VALUES = 25_000_000
"""In as much JSON there are fewer numbers of 32 bits; zeros alone would be four times as many, and fill the memory."""
_CHUNK_BYTES = 1 << 20
_WIRE_PARAMS = {
    "prediction_length": "h",
    "levels": "level",
    "quantile_levels": "level",
    "past_covariates": "series.X",
    "num_windows": "n_windows",
    "stride": "step_size",
    "timezone": "series.start_datetime",
    "hyperparameters.max_epochs": "finetune_steps",
    "method": "finetune_depth",
}
"""The service's field → what the client calls it."""


class FaceRoute(APIRoute):
    """Answers errors as the client reads them, whatever raised them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return answering_errors(super().get_route_handler())


class DirectFaceRoute(APIRoute):
    """The same of an endpoint that reads the request itself: there is nothing for the framework to resolve."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return answering_errors(endpoint)


def answering_errors(
    handler: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return face_error(error)
        except RequestValidationError as error:
            return face_error(validation_error(error))
        except TemperError as error:
            return face_error(as_api_error(error))

    return handle


def face_error(error: ApiError) -> JSONResponse:
    """`detail` is what the client logs; `error` is the object of every other route. No 409: the client would ask six
    times more, ten seconds apart, for what will not change."""
    return JSONResponse(face_error_body(error), 422 if error.status_code == 409 else error.status_code, error.headers)


def face_error_body(error: ApiError) -> dict[str, Any]:
    body = error_body(error)
    body["error"]["param"] = _WIRE_PARAMS.get(error.param or "", error.param)
    return {"detail": error.message, **body}


def read_wire(kind: type[Sent], request: Request, body: bytes) -> Sent:
    """The body as a `kind`. 400 for what cannot be read, 413 over the cap, 422 for what does not fit or is unknown."""
    sent = validated(kind, decoded(request, body))
    sent.check()
    return sent


def decoded(request: Request, body: bytes) -> bytes:
    """The JSON text; of a zstd frame at most `MAX_DECODED_BYTES`, however much it holds."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding != "zstd":
        raise ApiError(415, "unsupported_encoding", f"content-encoding {encoding!r} is not read here, only zstd.")
    text = bytearray()
    reader = zstandard.ZstdDecompressor().stream_reader(body)
    try:
        while chunk := reader.read(_CHUNK_BYTES):
            text += chunk
            if len(text) > MAX_DECODED_BYTES:
                raise _too_large(f"{MAX_DECODED_BYTES:,} bytes", {"max_bytes": MAX_DECODED_BYTES})
    except zstandard.ZstdError as error:
        raise ApiError(400, "malformed_zstd", f"The body is not a zstd frame: {error}.") from error
    if text.count(b",") >= MAX_DECODED_VALUES:
        raise _too_large(f"{MAX_DECODED_VALUES:,} values", {"max_values": MAX_DECODED_VALUES})
    return bytes(text)


def _too_large(most: str, details: dict[str, int]) -> ApiError:
    message = f"Decompressed, a body may hold {most}: split the call (num_partitions)."
    return ApiError(413, "too_large", message, details=details)
