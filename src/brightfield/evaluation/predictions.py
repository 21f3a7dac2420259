"""What is scored: label volumes (OME-Zarr, npy, TIFF) and traces (SWC), one of a cell, or a directory with one per cell.

A volume is read window by window. What a file says of its voxel size must agree with the dataset's; what says nothing must have its shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import GridError, InputError, StackError
from brightfield.core.reach import beyond_reach
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Triple, Window
from brightfield.core.swc import read_swc
from brightfield.evaluation.voxels import FOREGROUND

VOLUME_SUFFIXES = (".zarr", ".npy", ".tif", ".tiff")
TRACE_SUFFIX = ".swc"

_SIZE_TOLERANCE = 1e-3
"""Voxel sizes that differ by less are the same: TIFF keeps a resolution as a fraction."""


@dataclass(frozen=True)
class RawVolume:
    """A volume as its file has it. voxel_size_zyx_um, origin_zyx_um: None where the file does not say."""

    path: Path
    shape_zyx: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Window], NDArray[Any]]
    voxel_size_zyx_um: tuple[float | None, ...] | None = None
    origin_zyx_um: Triple | None = None


@dataclass(frozen=True)
class VoxelPrediction:
    """A volume of codes: `read` gives those of a window, see `voxels`. level: of the label pyramid that it was predicted on.

    is_mask: it says where a neuron is, and not of what class.
    """

    read: Callable[[Window], NDArray[np.uint8]]
    level: int = 0
    is_mask: bool = False


# ------------------------------------------------------------------------------------------------------------- finding the files


def prediction_files(path: Path, cell: int | None = None) -> dict[int, Path]:
    """The predictions at `path` by specimen id: itself, or what lies in a directory and is named by a specimen id.

    Raises InputError when there is none, when there are two for a cell, or when nobody can tell which cell a file is of.
    """
    if not path.exists():
        raise InputError("no such prediction; name a file, an OME-Zarr, or a directory with one of them per cell", path=path)
    if path.is_dir() and path.suffix.lower() != ".zarr" and not any((path / name).exists() for name in ("zarr.json", ".zattrs")):
        found = _by_cell(path)
        return found if cell is None else {cell: _of_cell(found, cell, path)}
    if not _is_prediction(path) and not path.is_dir():
        raise InputError(f"a prediction is one of {_endings()}, found {path.suffix or 'no ending'!r}; convert it", path=path)
    specimen_id = _specimen_id(path) if cell is None else cell
    if specimen_id is None:
        raise InputError("which cell is it of? say --cell ID, or put the id into its name", path=path)
    return {specimen_id: path}


def _by_cell(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        specimen_id = _specimen_id(file) if _is_prediction(file) else None
        if specimen_id is not None:
            if specimen_id in found:
                raise InputError(f"{found[specimen_id].name} and {file.name} are both of cell {specimen_id}; keep one", path=folder)
            found[specimen_id] = file
    if not found:
        raise InputError(f"holds no prediction; name them by specimen id, with an ending of {_endings()}", path=folder)
    return found


def _of_cell(found: dict[int, Path], cell: int, folder: Path) -> Path:
    if cell not in found:
        raise InputError(f"holds no prediction of cell {cell}, only of {', '.join(map(str, found))}", path=folder)
    return found[cell]


def _is_prediction(path: Path) -> bool:
    return path.suffix.lower() in (*VOLUME_SUFFIXES, TRACE_SUFFIX)


def _specimen_id(path: Path) -> int | None:
    """The first number in the name that is no part of a word: 314804042.zarr, 314804042_um.swc, cell-7.npy."""
    match = re.search(r"(?<![0-9A-Za-z])\d+", path.name)
    return int(match.group()) if match else None


def _endings() -> str:
    return ", ".join((*VOLUME_SUFFIXES, TRACE_SUFFIX))


# ------------------------------------------------------------------------------------------------------------------- traces


def open_trace(path: Path, grid: Grid, unit: str = "um") -> Skeleton:
    """A trace in the frame of the stack, um. unit: ``um``, or ``voxels`` of `grid` (as `brightfield` exports them).

    Raises SkeletonError for what is no SWC, GridError for a trace that lies mostly outside the image or reaches far beyond it.
    """
    trace = read_swc(path)
    if unit == "voxels":
        trace = trace.moved_to(grid.to_um(trace.position_zyx_um))
    inside = np.mean(grid.contains(trace.position_zyx_um))
    if inside < 0.5:
        raise GridError(f"{path}: {_misplaced(trace, grid, unit, float(inside))}")
    if problem := beyond_reach(trace, grid):
        raise GridError(f"{path}: {problem}; correct the trace, or say its unit (--unit)")
    return trace


def _misplaced(trace: Skeleton, grid: Grid, unit: str, inside: float) -> str:
    low, high = trace.bounding_box_um
    box = " to ".join(str(tuple(round(v, 1) for v in corner)) for corner in (low, high))
    found = f"{inside:.0%} of its nodes lie in the image (read in {unit}, it spans z, y, x {box} um)"
    expected = f"the image spans {tuple(round(v, 1) for v in grid.extent_zyx_um[1])} um with voxels of {_size(grid.voxel_size_zyx_um)} um"
    other = grid.to_um(trace.position_zyx_um) if unit == "um" else grid.to_voxel(trace.position_zyx_um)
    better = "voxels" if unit == "um" else "um"
    fits = np.mean(grid.contains(other)) > 0.5
    remedy = f"it fits when read in {better}: say --unit {better}" if fits else "check its unit and the order of its axes"
    return f"{found}; {expected}; {remedy}"


# ------------------------------------------------------------------------------------------------------------------ volumes


def open_volume_prediction(path: Path, grids: Sequence[Grid], threshold: float | None = None) -> VoxelPrediction:
    """A volume of codes on one of the levels of the labels.

    grids: of the label pyramid, finest first. threshold: values above it are foreground, without class; None: whole numbers are
    codes of `codes.Label`, booleans are foreground. Raises StackError for a file that cannot be read, and GridError, naming file, shape
    and voxel size, for a volume that lies on none of the grids.
    """
    raw = open_raw(path)
    level = level_of(raw, grids)
    if raw.dtype.kind not in "iubf":
        raise StackError(f"its values are {raw.dtype}; write whole numbers, booleans or floating point", path=path)
    if threshold is None and raw.dtype.kind == "f":
        raise StackError(f"its values are {raw.dtype}, not label codes; say --threshold T, values above T are foreground", path=path)
    if threshold is not None or raw.dtype.kind == "b":
        limit = 0 if threshold is None else threshold
        return VoxelPrediction(lambda window: np.where(raw.read(window) > limit, FOREGROUND, 0).astype(np.uint8), level, is_mask=True)
    return VoxelPrediction(lambda window: _codes(raw, window), level)


def _codes(raw: RawVolume, window: Window) -> NDArray[np.uint8]:
    values = raw.read(window)
    if not values.any():
        return np.zeros(values.shape, np.uint8)
    codes = np.where(values == Label.UNKNOWN, 0, values)
    if codes.min() < 0 or codes.max() > Label.APICAL_DENDRITE:
        known = ", ".join(f"{int(label)} {label.name.lower()}" for label in Label)
        found = codes[(codes < 0) | (codes > Label.APICAL_DENDRITE)][0]
        raise StackError(
            f"holds the value {found}, which is no label code ({known}); map it, or say --threshold T for a mask", path=raw.path
        )
    return codes.astype(np.uint8)


def open_raw(path: Path) -> RawVolume:
    """The volume of a file (OME-Zarr, npy, TIFF), to be read window by window. Raises StackError for one that cannot be read."""
    if path.suffix.lower() == ".npy":
        return _open_npy(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        return _open_tiff(path)
    from brightfield.volumes.foreign import open_foreign

    volume = open_foreign(path)
    return RawVolume(path, volume.grid.shape_zyx, volume.dtype, volume.read, volume.grid.voxel_size_zyx_um, volume.grid.origin_zyx_um)


def _open_npy(path: Path) -> RawVolume:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise StackError(f"not a numpy array: {error}; write it with numpy.save", path=path) from error
    return RawVolume(path, array.shape, array.dtype, _windows_of(array))


def _open_tiff(path: Path) -> RawVolume:
    """Uncompressed TIFF is mapped; a compressed one is unpacked into a temporary file, plane by plane."""
    import tifffile

    from brightfield.evaluation.tiff import described, mapped

    try:
        with tifffile.TiffFile(path) as tiff:
            shape, size = described(tiff, path)
            array = mapped(tiff, shape)
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise StackError(f"not a TIFF stack that can be read: {error}; write z, y, x as pages of one TIFF", path=path) from error
    return RawVolume(path, shape, array.dtype, _windows_of(array), size)


def _windows_of(array: NDArray[Any]) -> Callable[[Window], NDArray[Any]]:
    return lambda window: np.asarray(array[tuple(slice(lo, hi) for lo, hi in window)])


# ------------------------------------------------------------------------------------------------------------- where it lies


def level_of(raw: RawVolume, grids: Sequence[Grid]) -> int:
    """The level of a pyramid that a volume lies on. Raises GridError, naming file, shape and voxel size, where it lies on none."""
    for level, grid in enumerate(grids):
        if raw.shape_zyx == grid.shape_zyx and _agrees(raw, grid):
            return level
    raise GridError(f"{raw.path}: {_misfit(raw, grids)}")


def _agrees(raw: RawVolume, grid: Grid) -> bool:
    size = raw.voxel_size_zyx_um or (None, None, None)
    same_size = all(s is None or abs(s / g - 1) < _SIZE_TOLERANCE for s, g in zip(size, grid.voxel_size_zyx_um, strict=True))
    if raw.origin_zyx_um is None:
        return same_size
    away = np.abs(np.subtract(raw.origin_zyx_um, grid.origin_zyx_um)) / grid.voxel_size_zyx_um
    return same_size and bool((away < 0.5).all())


def _misfit(raw: RawVolume, grids: Sequence[Grid]) -> str:
    """What is wrong with a volume that lies on none of the grids."""
    size = raw.voxel_size_zyx_um
    said = "no voxel size" if size is None or None in size else f"voxels of {_size(size)} um"
    found = f"shape (z, y, x) {raw.shape_zyx} with {said}"
    levels = "; ".join(f"level {k}: {grid.shape_zyx} with voxels of {_size(grid.voxel_size_zyx_um)} um" for k, grid in enumerate(grids))
    same_shape = [grid for grid in grids if grid.shape_zyx == raw.shape_zyx]
    if raw.shape_zyx[::-1] in {grid.shape_zyx for grid in grids}:
        remedy = "its axes are in the order x, y, z: transpose them to z, y, x"
    elif (
        same_shape
        and raw.origin_zyx_um is not None
        and _agrees(RawVolume(raw.path, raw.shape_zyx, raw.dtype, raw.read, size), same_shape[0])
    ):
        remedy = f"its origin is {_size(raw.origin_zyx_um)} um, the labels' {_size(same_shape[0].origin_zyx_um)}: write the translation"
    elif same_shape:
        remedy = "the shape is right, the voxel size is not: write the scale in um, in the order z, y, x"
    else:
        remedy = "predict the whole image of the cell, on one of its levels"
    return f"{found} is on no level of the labels ({levels}); {remedy}"


def _size(values: Sequence[float | None]) -> str:
    return "(" + ", ".join("?" if value is None else f"{value:.4g}" for value in values) + ")"
