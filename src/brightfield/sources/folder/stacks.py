"""Stacks of images as laboratories keep them, read box by box: a file per plane, one file of many planes, or an OME-Zarr.

Files are reached through fsspec by byte ranges, so that a box of a TIFF costs the strips or tiles that it touches and no more.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import StackError, TransferError
from brightfield.volumes.ranges import Ranges, RangeStore

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from tifffile import TiffFile, TiffPage

type Pixels = NDArray[Any]
"""uint8 or uint16."""
type Box = tuple[int, int, int, int]
"""Rows and columns: y0, y1, x0, x1."""

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_TIFF = (".tif", ".tiff")

LARGEST_PIXEL_UM = 20.0
"""More than this is no microscope: the resolution tag is the 72 dots per inch that programs write when they know nothing."""

_UNIT_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "\\u00b5m": 1.0}
_UNIT_UM |= {"nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6, "inch": 25400.0}
_RESOLUTION_UNIT_UM = {2: 25400.0, 3: 10000.0}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory as the file system lists it; size is None where it does not say."""

    path: str
    size: int | None
    is_directory: bool

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending with its dot, lower case; empty where there is none."""
        stem, dot, ending = self.name.rpartition(".")
        return f".{ending.lower()}" if dot and stem else ""


@dataclass(frozen=True, slots=True)
class VoxelSize:
    """What a file says of its voxels, in um; None where it does not."""

    y_um: float | None = None
    x_um: float | None = None
    z_um: float | None = None


class OpenStack(Protocol):
    """A stack whose planes have numbers (increasing, gaps where planes are missing), one shape and one dtype (uint8 or uint16)."""

    numbers: tuple[int, ...]
    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]
    size: VoxelSize

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane. Raises StackError for one that cannot be decoded."""
        ...

    def stamp(self, number: int) -> str:
        """Changes when the plane's file does: its name and size."""
        ...


def open_stack(system: AbstractFileSystem, entries: Sequence[Entry], where: str) -> OpenStack | None:
    """The stack among the entries of a cell's directory, or None where there is no image.

    One OME-Zarr, or one TIFF with the whole stack, or a file per plane, numbered. Raises StackError when it is unclear which is meant, or
    the first plane cannot be read.
    """
    zarrs = [entry for entry in entries if entry.is_directory and entry.suffix == ".zarr"]
    files = [entry for entry in entries if not entry.is_directory and entry.suffix in IMAGE_SUFFIXES]
    if len(zarrs) + bool(files) > 1:
        names = ", ".join(entry.name for entry in (*zarrs, *files[:1]))
        raise StackError(f"more than one stack ({names}); keep one per directory", path=where)
    ranges = Ranges(system)
    if zarrs:
        return ZarrStack(ranges, zarrs[0])
    if not files:
        return None
    if len(files) == 1 and files[0].suffix in _TIFF:
        return TiffStack(ranges, files[0])
    return PlaneFiles(ranges, _numbered(files, where))


# ---------------------------------------------------------------------------------------------------------- a file per plane


class PlaneFiles:
    """A stack with one file per plane."""

    def __init__(self, ranges: Ranges, files: Mapping[int, Entry]) -> None:
        self._ranges, self._files = ranges, files
        self._planes: dict[int, _Plane] = {}
        self.numbers = tuple(sorted(files))
        first = self._plane(self.numbers[0])
        self.shape_yx, self.dtype, self.size = first.shape_yx, first.dtype, first.size

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

    def _plane(self, number: int) -> _Plane:
        if number not in self._planes:
            entry = self._files[number]
            make = _tiff_plane if entry.suffix in _TIFF else _picture_plane
            self._planes[number] = _readable(entry.path, partial(make, self._ranges, entry))
        return self._planes[number]


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


@dataclass(frozen=True)
class _Plane:
    """One plane of a file: how to read a box of it."""

    shape_yx: tuple[int, int]
    dtype: np.dtype[Any]
    size: VoxelSize
    read: Callable[[Box], Pixels]


def _picture_plane(ranges: Ranges, entry: Entry) -> _Plane:
    """A PNG or JPEG: it can only be decoded whole, and the last ones are kept."""

    def whole() -> Pixels:
        from PIL import Image

        with Image.open(io.BytesIO(ranges.whole(entry.path))) as picture:
            if picture.mode not in ("L", "I;16", "I;16B"):
                raise StackError(f"expected a grey picture of 8 or 16 bit, found mode {picture.mode}", path=entry.path)
            pixels = np.asarray(picture)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)

    pixels = ranges.cached((entry.path, 0), whole)
    return _Plane(_shape(pixels), pixels.dtype, VoxelSize(), lambda box: _cut(ranges.cached((entry.path, 0), whole), box))


# --------------------------------------------------------------------------------------------------------------------- TIFF


class TiffStack:
    """A stack in one TIFF: multi-page, ImageJ or OME."""

    def __init__(self, ranges: Ranges, entry: Entry) -> None:
        self._entry = entry
        self._planes = _readable(entry.path, partial(_tiff_planes, ranges, entry))
        self.numbers = tuple(range(len(self._planes)))
        self.shape_yx, self.dtype, self.size = self._planes[0].shape_yx, self._planes[0].dtype, self._planes[0].size

    def stamp(self, number: int) -> str:
        """Changes when the file does: its name and size, and the page."""
        return f"{self._entry.name}:{self._entry.size}:{number}"

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane."""
        return self._planes[number].read(box)


def _tiff_plane(ranges: Ranges, entry: Entry) -> _Plane:
    planes = _tiff_planes(ranges, entry)
    if len(planes) != 1:
        raise StackError(f"expected one plane, found {len(planes)} pages; a file is either one plane or the whole stack", path=entry.path)
    return planes[0]


def _tiff_planes(ranges: Ranges, entry: Entry) -> list[_Plane]:
    import tifffile

    with ranges.open(entry.path) as file, tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        shape, size = tuple(series.shape), _tiff_voxel_size(tiff)
        n_planes = int(np.prod(shape[:-2]))
        dtype = np.dtype(series.dtype)
        if len(shape) < 2 or series.axes[-2:] != "YX" or dtype.name not in ("uint8", "uint16") or set(series.axes) & set("CS"):
            raise StackError(f"expected grey planes of 8 or 16 bit, found {dtype} with axes {series.axes} {shape}", path=entry.path)
        if tiff.pages.first.photometric != tifffile.PHOTOMETRIC.MINISBLACK:
            raise StackError("expected grey values where 0 is black; convert the planes, no value is turned round here", path=entry.path)
        shape_yx = (int(shape[-2]), int(shape[-1]))
        stored = dtype.newbyteorder(tiff.byteorder)
        if series.dataoffset is not None:
            step = shape_yx[0] * shape_yx[1] * dtype.itemsize
            places = [series.dataoffset + number * step for number in range(n_planes)]
            reads = [partial(_read_contiguous, ranges, entry.path, place, shape_yx, stored) for place in places]
        else:
            pages = [tiff.pages[number].aspage() for number in range(n_planes)]
            reads = [partial(_read_segments, ranges, entry.path, page) for page in pages]
    return [_Plane(shape_yx, dtype.newbyteorder("="), size, read) for read in reads]


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


def _tiff_voxel_size(tiff: TiffFile) -> VoxelSize:
    """From OME-XML, else from ImageJ's notes and the resolution tags."""
    if tiff.ome_metadata:
        return _ome_voxel_size(tiff.ome_metadata)
    tags, notes = tiff.pages.first.tags, tiff.imagej_metadata or {}
    unit_um = _RESOLUTION_UNIT_UM.get(int(tags["ResolutionUnit"].value)) if "ResolutionUnit" in tags else None
    named_um = _UNIT_UM.get(str(notes.get("unit", "")).lower())
    sizes = [_resolution_um(tags[name].value, named_um or unit_um) if name in tags else None for name in ("YResolution", "XResolution")]
    spacing = notes.get("spacing")
    return VoxelSize(sizes[0], sizes[1], float(spacing) * named_um if spacing and named_um else None)


def _resolution_um(value: tuple[int, int], unit_um: float | None) -> float | None:
    """Pixel size from pixels per unit; None for what no microscope has."""
    if not unit_um or not value[0] or not value[1]:
        return None
    pixel_um = unit_um * value[1] / value[0]
    return pixel_um if pixel_um <= LARGEST_PIXEL_UM else None


def _ome_voxel_size(text: str) -> VoxelSize:
    found = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', found.group())) if found else {}

    def size(axis: str) -> float | None:
        unit_um = _UNIT_UM.get(attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        value = attributes.get(f"PhysicalSize{axis}")
        return float(value) * unit_um if value and unit_um else None

    return VoxelSize(size("Y"), size("X"), size("Z"))


# ------------------------------------------------------------------------------------------------------------------ OME-Zarr


class ZarrStack:
    """The finest level of an OME-Zarr image (0.4 or 0.5); axes other than z, y, x have length 1."""

    def __init__(self, ranges: Ranges, entry: Entry) -> None:
        import zarr

        self._ranges, self._entry = ranges, entry
        try:
            group: Any = zarr.open_group(RangeStore(ranges, entry.path), mode="r")
            attributes = group.attrs.asdict()
            multiscale = attributes.get("ome", attributes)["multiscales"][0]
            dataset = multiscale["datasets"][0]
            self._array: Any = group[dataset["path"]]
            names = [axis["name"].lower() for axis in multiscale["axes"]]
            scale = next(t["scale"] for t in dataset["coordinateTransformations"] if t["type"] == "scale")
            units = [_UNIT_UM.get(axis.get("unit", "").lower()) for axis in multiscale["axes"]]
        except (KeyError, IndexError, TypeError, ValueError, StopIteration, OSError) as error:
            raise StackError(f"not an OME-Zarr image with multiscales, axes and a scale ({error})", path=entry.path) from error
        extra = [n for name, n in zip(names, self._array.shape, strict=True) if name not in "zyx"]
        if names[-3:] != ["z", "y", "x"] or any(n != 1 for n in extra) or self._array.dtype.name not in ("uint8", "uint16"):
            found = f"{self._array.dtype} with axes {names} {self._array.shape}"
            raise StackError(f"expected one grey channel of 8 or 16 bit with axes z, y, x, found {found}", path=entry.path)
        n_planes, height, width = self._array.shape[-3:]
        self.numbers = tuple(range(n_planes))
        self.shape_yx, self.dtype = (height, width), np.dtype(self._array.dtype).newbyteorder("=")
        z_um, y_um, x_um = (float(s) * unit if unit else None for s, unit in zip(scale[-3:], units[-3:], strict=True))
        self.size = VoxelSize(y_um, x_um, z_um)
        self._lead = (0,) * len(extra)

    def stamp(self, number: int) -> str:
        """The name and the plane: a store has no size."""
        return f"{self._entry.name}:{number}"

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane: cut from all planes of its chunks, which are kept for the planes that follow."""
        depth = self._array.chunks[-3]
        first, (y0, y1, x0, x1) = number // depth * depth, box
        place = (*self._lead, slice(first, first + depth), slice(y0, y1), slice(x0, x1))
        slab = self._ranges.cached((self._entry.path, first, box), lambda: np.asarray(self._array[place]))
        return np.ascontiguousarray(slab[number - first], self.dtype)


def _readable[T](path: str, make: Callable[[], T]) -> T:
    """What `make` gives; a file that no reader understands is a StackError, one that cannot be had a TransferError."""
    try:
        return make()
    except (SyntaxError, ValueError, EOFError, RuntimeError) as error:
        raise StackError(f"the image cannot be read: {error}", path=path) from error
    except OSError as error:
        if type(error).__name__ == "UnidentifiedImageError":
            raise StackError("the image cannot be read: not a PNG or JPEG", path=path) from error
        raise TransferError(f"{path}: {error}", reason="the file cannot be opened", absent=isinstance(error, FileNotFoundError)) from error


def _shape(pixels: Pixels) -> tuple[int, int]:
    return (pixels.shape[0], pixels.shape[1])


def _cut(pixels: Pixels, box: Box) -> Pixels:
    y0, y1, x0, x1 = box
    return np.ascontiguousarray(pixels[y0:y1, x0:x1])
