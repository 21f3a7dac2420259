"""Boxes of single TIFF planes, from the strips or tiles that they touch: tifffile decodes pages, bytes come through `Ranges`.

tifffile's zarr store of a series (`series.aszarr`) gives the same pixels on one thread and takes 9 times as long for strips of two rows,
2 times as long for tiles of 256 pixels; the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import StackError
from brightfield.volumes.ranges import Ranges

if TYPE_CHECKING:
    from tifffile import TiffPage

type Pixels = NDArray[Any]
"""uint8 or uint16."""
type Box = tuple[int, int, int, int]
"""Rows and columns: y0, y1, x0, x1."""


@dataclass(frozen=True)
class PlaneReader:
    """One plane of a file: how to read a box of it."""

    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]
    read: Callable[[Box], Pixels]


def page_reader(ranges: Ranges, path: str, page: TiffPage) -> PlaneReader:
    """The plane that is a page of a TIFF. Raises StackError where the page is no plane of grey values that is kept upright."""
    refuse_odd_page(page, path)
    dtype = np.dtype(page.dtype)
    shape_yx = (int(page.imagelength), int(page.imagewidth))
    if page.is_final and _is_in_one_piece(page):
        return contiguous_reader(ranges, path, int(page.dataoffsets[0]), shape_yx, dtype.newbyteorder(page.parent.byteorder))
    return PlaneReader(shape_yx, dtype, partial(_read_segments, ranges, path, page))


def contiguous_reader(ranges: Ranges, path: str, offset: int, shape_yx: tuple[int, int], stored: np.dtype[Any]) -> PlaneReader:
    """The plane whose rows follow one another from `offset`, stored as the dtype `stored`."""
    return PlaneReader(shape_yx, stored.newbyteorder("="), partial(_read_contiguous, ranges, path, offset, shape_yx, stored))


def refuse_odd_page(page: TiffPage, path: str) -> None:
    """Raise StackError for what would have to be turned, inverted or mixed to be grey values with 0 as black."""
    import tifffile

    what = f"{page.dtype} of shape {page.shape}, {_name(page.photometric)}"
    if page.dtype is None or page.dtype.name not in ("uint8", "uint16") or page.samplesperpixel != 1 or len(page.shape) != 2:
        raise StackError(f"expected grey planes of 8 or 16 bit, found {what}; convert them", path=path)
    if page.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
        problem = f"expected grey values where 0 is black, found {_name(page.photometric)}"
        raise StackError(f"{problem}; convert the planes, no value is turned round here", path=path)
    orientation = page.tags.get("Orientation")
    if orientation is not None and int(orientation.value) != 1:
        problem = f"the planes are stored turned or mirrored (Orientation {_name(tifffile.ORIENTATION(orientation.value))})"
        raise StackError(f"{problem}; save them upright, or the skeleton would not fit", path=path)


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _is_in_one_piece(page: TiffPage) -> bool:
    """Whether the rows of an uncompressed page follow one another in the file, whatever strips they are in."""
    offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    return len(offsets) > 0 and bool((offsets[:-1] + counts[:-1] == offsets[1:]).all()) and int(counts.sum()) >= page.nbytes


def _read_contiguous(ranges: Ranges, path: str, offset: int, shape_yx: tuple[int, int], dtype: np.dtype[Any], box: Box) -> Pixels:
    y0, y1, x0, x1 = box
    row_bytes = shape_yx[1] * dtype.itemsize
    data = ranges.read(path, offset + y0 * row_bytes, offset + y1 * row_bytes)
    rows = np.frombuffer(data, dtype).reshape(y1 - y0, shape_yx[1])
    return np.ascontiguousarray(rows[:, x0:x1], dtype.newbyteorder("="))


def _read_segments(ranges: Ranges, path: str, page: TiffPage, box: Box) -> Pixels:
    """The box from the strips or tiles that it touches."""
    y0, y1, x0, x1 = box
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    across = -(-page.imagewidth // width)
    out = np.zeros((y1 - y0, x1 - x0), page.dtype)
    for row in range(y0 // height, -(-y1 // height)):
        for column in range(x0 // width, -(-x1 // width)):
            segment = ranges.cached(
                (path, page.offset, row * across + column), partial(_segment, ranges, path, page, row * across + column)
            )
            if segment is None:
                continue  # a sparse file: what is not stored is 0
            top, left = row * height, column * width
            bottom, right = min(y1, top + segment.shape[0]), min(x1, left + segment.shape[1])
            inside = segment[max(y0 - top, 0) : bottom - top, max(x0 - left, 0) : right - left]
            out[max(top, y0) - y0 : bottom - y0, max(left, x0) - x0 : right - x0] = inside
    return out


def _segment(ranges: Ranges, path: str, page: TiffPage, index: int) -> Any:
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if not count:
        return None
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.jpegtables is not None else {}
    try:
        segment, _, _ = page.decode(ranges.read(path, offset, offset + count), index, **tables)
    except (ValueError, RuntimeError) as error:
        raise StackError(f"strip or tile {index} cannot be decoded: {error}", path=path) from error
    return None if segment is None else segment[0, :, :, 0]
