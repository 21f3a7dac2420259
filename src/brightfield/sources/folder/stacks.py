"""Stacks of images as laboratories keep them, read box by box: a file per plane, one file of many planes, or an OME-Zarr.

Files are reached through fsspec by byte ranges, so that a box of a TIFF costs the strips or tiles that it touches and no more.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from brightfield.core.errors import BrightfieldError, StackError, TransferError
from brightfield.sources.folder.axes import Choice, told
from brightfield.sources.folder.calibration import Statements
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.ome_files import ome_files
from brightfield.sources.folder.tiff_pages import Box, Pixels, PlaneReader
from brightfield.sources.folder.tiff_stacks import TiffStack, tiff_planes
from brightfield.sources.folder.zarr_stacks import ZarrStack
from brightfield.volumes.ranges import Ranges

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")


class OpenStack(Protocol):
    """A stack whose planes have numbers (increasing, gaps where planes are missing), one shape and one dtype (uint8 or uint16).

    kind and axes: what it was taken for, in words. statements: what its files say of the voxels.
    """

    numbers: tuple[int, ...]
    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]
    kind: str
    axes: str
    statements: Statements

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane. Raises StackError for one that cannot be decoded."""
        ...

    def stamp(self, number: int) -> str:
        """Changes when the plane's file does: its name and size."""
        ...


def open_stack(system: AbstractFileSystem, entries: Sequence[Entry], where: str, choice: Choice | None = None) -> OpenStack | None:
    """The stack among the entries of a cell's directory, or None where there is no image.

    One OME-Zarr, or one TIFF with the whole stack, or a file per plane, numbered or described by OME-XML. Raises StackError when it is
    unclear which is meant, or the first plane cannot be read, and TransferError when it cannot be had; both name the file.
    """
    choice = choice or Choice()
    zarrs = [entry for entry in entries if entry.is_directory and entry.suffix == ".zarr"]
    files = [entry for entry in entries if not entry.is_directory and entry.suffix in IMAGE_SUFFIXES]
    if len(zarrs) + bool(files) > 1:
        names = ", ".join(entry.name for entry in (*zarrs, *files[:1]))
        raise StackError(f"more than one stack ({names}); keep one per directory", path=where)
    ranges = Ranges(system)
    if zarrs:
        return readable(zarrs[0].path, partial(ZarrStack, ranges, zarrs[0], choice))
    if not files:
        return None
    if all(entry.suffix in _TIFF for entry in files):
        others = [entry for entry in entries if not entry.is_directory]
        described = readable(files[0].path, partial(ome_files, ranges, files, others, choice, where))
        if described is not None:
            return described
        if len(files) == 1:
            return readable(files[0].path, partial(TiffStack, ranges, files[0], choice))
    return PlaneFiles(ranges, _numbered(files, where), choice)


# ---------------------------------------------------------------------------------------------------------- a file per plane


class PlaneFiles:
    """A stack with one file per plane, in the order of the numbers in their names."""

    def __init__(self, ranges: Ranges, files: Mapping[int, Entry], choice: Choice) -> None:
        self._ranges, self._files, self._choice = ranges, files, choice
        self._planes: dict[int, PlaneReader] = {}
        self.statements = Statements()
        self.numbers = tuple(sorted(files))
        first = self._plane(self.numbers[0])
        self.shape_yx, self.dtype = first.shape_yx, first.dtype
        self.kind = f"{len(files)} files, {files[self.numbers[0]].name} first"
        self.axes = f"z={len(files)}, {told('yx', self.shape_yx)}"

    def stamp(self, number: int) -> str:
        """Changes when the plane's file does: its name and size."""
        return f"{self._files[number].name}:{self._files[number].size}"

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane."""
        plane = self._plane(number)
        if (plane.shape_yx, plane.dtype) != (self.shape_yx, self.dtype):
            found, expected = f"{plane.dtype} {plane.shape_yx}", f"{self.dtype} {self.shape_yx}"
            raise StackError(f"the plane is {found}, the first one {expected}", path=self._files[number].path)
        return plane.read(box)

    def _plane(self, number: int) -> PlaneReader:
        if number not in self._planes:
            entry = self._files[number]
            make = self._tiff_plane if entry.suffix in _TIFF else partial(_picture_plane, self._ranges)
            self._planes[number] = readable(entry.path, partial(make, entry))
        return self._planes[number]

    def _tiff_plane(self, entry: Entry) -> PlaneReader:
        opened = tiff_planes(self._ranges, entry, self._choice)
        if len(opened.planes) != 1:
            problem = f"expected one plane, found {len(opened.planes)} ({opened.axes})"
            raise StackError(f"{problem}; a file is either one plane or the whole stack", path=entry.path)
        if not self._planes:
            self.statements = opened.statements
        return opened.planes[0]


def _numbered(files: Sequence[Entry], where: str) -> dict[int, Entry]:
    """Files by plane number: the one group of digits that differs between their names, whatever its padding."""
    parts = [re.split(r"(\d+)", entry.name.rpartition(".")[0]) for entry in files]
    odd = [entry.name for entry, part in zip(files, parts, strict=True) if part[::2] != parts[0][::2]]
    if odd:
        raise StackError(f"planes are named alike but for their number; {files[0].name} and {odd[0]} are not", path=where)
    varying = [i for i in range(1, len(parts[0]), 2) if len({int(part[i]) for part in parts}) > 1]
    if len(files) == 1:
        varying = [len(parts[0]) - 2] if len(parts[0]) > 1 else []
        if not varying:
            return {0: files[0]}
    if len(varying) != 1:
        raise StackError(f"no single number tells planes such as {files[0].name} and {files[-1].name} apart", path=where)
    numbered: dict[int, Entry] = {}
    for entry, part in zip(files, parts, strict=True):
        other = numbered.setdefault(int(part[varying[0]]), entry)
        if other is not entry:
            raise StackError(f"{other.name} and {entry.name} are both plane {int(part[varying[0]])}; remove one", path=where)
    return numbered


def _picture_plane(ranges: Ranges, entry: Entry) -> PlaneReader:
    """A PNG or JPEG: it can only be decoded whole, and the last ones are kept."""

    def whole() -> Pixels:
        from PIL import Image

        with Image.open(io.BytesIO(ranges.whole(entry.path))) as picture:
            if picture.mode not in ("L", "I;16", "I;16B"):
                raise StackError(f"expected a grey picture of 8 or 16 bit, found mode {picture.mode}", path=entry.path)
            if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
                raise StackError("the picture is stored turned or mirrored (EXIF orientation); save it upright", path=entry.path)
            pixels = np.asarray(picture)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)

    pixels = ranges.cached((entry.path, 0), whole)
    shape_yx = (pixels.shape[0], pixels.shape[1])
    return PlaneReader(shape_yx, pixels.dtype, lambda box: _cut(ranges.cached((entry.path, 0), whole), box))


_EXIF_ORIENTATION = 0x0112


def _cut(pixels: Pixels, box: Box) -> Pixels:
    y0, y1, x0, x1 = box
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])


def readable[T](path: str, make: Callable[[], T]) -> T:
    """What `make` gives. A file that no reader understands is a StackError, one that cannot be had a TransferError; both name it.

    Every exception of a reader is one of the two: readers of other people's formats raise whatever their parsers meet.
    """
    try:
        return make()
    except BrightfieldError:
        raise
    except OSError as error:
        if type(error).__name__ == "UnidentifiedImageError":
            raise StackError("the image cannot be read: not a PNG or JPEG", path=path) from error
        raise TransferError(f"{path}: {error}", reason="the file cannot be opened", absent=isinstance(error, FileNotFoundError)) from error
    except Exception as error:
        raise StackError(f"the image cannot be read: {type(error).__name__}: {error}", path=path) from error
