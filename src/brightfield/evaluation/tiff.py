"""TIFF stacks of predictions: their shape, the voxel size that they tell, and their voxels as an array on disk."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import StackError

if TYPE_CHECKING:
    from tifffile import TiffFile

_UNIT_UM = {"": 1.0, "um": 1.0, "µm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "\\u00b5m": 1.0, "nm": 1e-3, "mm": 1e3}


def described(tiff: TiffFile, path: Path) -> tuple[tuple[int, int, int], tuple[float | None, ...]]:
    """Shape (z, y, x) and voxel size (z, y, x) in um of the first series, None where it is not told.

    Raises StackError for axes other than planes, y, x.
    """
    series = tiff.series[0]
    axes = "".join(axis for axis, n in zip(series.axes, series.shape, strict=True) if n != 1 or axis in "YX")
    if len(axes) != 3 or axes[-2:] != "YX" or axes[0] in "CST":
        raise StackError(f"its axes are {series.axes} of shape {tuple(series.shape)}; write one channel, planes first: z, y, x", path=path)
    z, y, x = (n for axis, n in zip(series.axes, series.shape, strict=True) if n != 1 or axis in "YX")
    return (z, y, x), _ome_size(tiff.ome_metadata) if tiff.ome_metadata else _imagej_size(tiff)


def mapped(tiff: TiffFile, shape: tuple[int, int, int]) -> NDArray[Any]:
    """The voxels as an array that lies on disk: the file itself, or its planes unpacked into a temporary one."""
    import tifffile

    series = tiff.series[0]
    if series.dataoffset is not None:
        mapped_file: NDArray[Any] = tifffile.memmap(tiff.filehandle.path, mode="r", series=0)
        return mapped_file.reshape(shape)
    with tempfile.TemporaryFile() as file:
        array: NDArray[Any] = np.memmap(file, dtype=series.dtype, mode="w+", shape=shape)
    for number, page in enumerate(series.pages):
        if page is not None:
            array[number] = page.asarray().reshape(shape[1:])
    return array


def _ome_size(text: str) -> tuple[float | None, ...]:
    found = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', found.group())) if found else {}
    return tuple(_um(attributes.get(f"PhysicalSize{axis}"), attributes.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX")


def _imagej_size(tiff: TiffFile) -> tuple[float | None, ...]:
    """ImageJ's notes: pixels per unit in the resolution tags, planes by `spacing`. Resolution tags alone are printers' dots, not voxels."""
    notes, tags = tiff.imagej_metadata or {}, tiff.pages.first.tags
    unit = str(notes.get("unit", "none"))
    sizes = [_inverse(tags[name].value, unit) if name in tags else None for name in ("YResolution", "XResolution")]
    return (_um(notes.get("spacing"), unit), *sizes)


def _inverse(value: tuple[int, int], unit: str) -> float | None:
    return _um(value[1] / value[0], unit) if value[0] and value[1] else None


def _um(value: Any, unit: str) -> float | None:
    factor = _UNIT_UM.get(unit.lower())
    return float(value) * factor if value and factor else None
