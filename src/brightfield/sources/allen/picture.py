"""The picture in an answer of an image service, as grey pixels, or the reason why there is none.

JPEG decoders paint over damage and go on. libjpeg-turbo notices most of it, as warnings; simplejpeg's strict mode makes them errors. A
changed value that leaves all codes of the data valid is not seen: only a checksum from the source could tell.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import TransferError
from brightfield.sources.allen.records import SIZE_EXCESS_PX
from brightfield.sources.http.client import Answer

_JPEG_SIGNATURE = b"\xff\xd8"
_DAMAGED = "the picture is cut short or damaged"


def decode_picture(answer: Answer, shape_yx: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey pixels, uint8 of shape `shape_yx`, of a picture (JPEG or PNG) that is one, is whole and has the size that was asked for.

    A colour picture yields its luma, which for a grey picture stored in colour is the picture. One row or column more than asked for is
    cut off (the service rounded the far edge up); one less is refused, since pixels are never invented.

    Raises TransferError for anything else that arrives under the name of a picture.
    """
    if not answer.content_type.startswith("image/"):
        raise TransferError(f"expected a picture, found {answer.content_type or 'no content type'}")
    pixels = (_jpeg if answer.body.startswith(_JPEG_SIGNATURE) else _png)(answer.body, shape_yx)
    return np.ascontiguousarray(pixels[: shape_yx[0], : shape_yx[1]])


def _jpeg(body: bytes, shape_yx: tuple[int, int]) -> NDArray[np.uint8]:
    """Decoded exactly, in the thread that asks, with the GIL released."""
    import simplejpeg

    try:
        rows, columns, *_ = simplejpeg.decode_jpeg_header(body)
        _require_size((rows, columns), shape_yx)  # before memory is asked for
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(body, "GRAY", strict=True)
    except ValueError as error:
        raise TransferError(f"{_DAMAGED}: {error}") from error
    return pixels[:, :, 0]


def _png(body: bytes, shape_yx: tuple[int, int]) -> NDArray[np.uint8]:
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(body), formats=("PNG",)) as picture:
            _require_size((picture.height, picture.width), shape_yx)
            return np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise TransferError(_DAMAGED) from error


def _require_size(found_yx: tuple[int, int], asked_yx: tuple[int, int]) -> None:
    if not all(0 <= found - asked <= SIZE_EXCESS_PX for found, asked in zip(found_yx, asked_yx, strict=True)):
        raise TransferError(f"expected a picture of {asked_yx[1]} x {asked_yx[0]} px, found {found_yx[1]} x {found_yx[0]} px")
