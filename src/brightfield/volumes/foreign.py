"""Zarr arrays that others wrote: OME-Zarr 0.4 and 0.5, read window by window where they say how large a voxel is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import GridError, StackError
from brightfield.core.space import Grid, Window

_UNIT_UM = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}


@dataclass(frozen=True, slots=True)
class ForeignVolume:
    """The finest level of an OME-Zarr image: its grid in um, the type of its voxels, and `read`, which gives those of a window."""

    grid: Grid
    dtype: np.dtype[Any]
    read: Callable[[Window], NDArray[Any]]


def open_foreign(path: Path) -> ForeignVolume:
    """The finest level of the OME-Zarr (0.4 or 0.5) at `path`.

    Raises StackError where it is none, where its axes are not z, y, x (behind axes of length 1), or where it has no scale or no unit.
    """
    import zarr

    try:
        group: Any = zarr.open_group(path, mode="r")
        attributes = group.attrs.asdict()
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        dataset = multiscale["datasets"][0]
        array: Any = group[dataset["path"]]
        axes = [dict(axis) for axis in multiscale["axes"]]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        remedy = "write it as OME-Zarr 0.4 or 0.5, with multiscales, axes and a scale"
        raise StackError(f"not an OME-Zarr image ({type(error).__name__}: {error}); {remedy}", path=path) from error
    _check_axes(axes, array.shape, path)
    lead = (0,) * (len(axes) - 3)

    def read(window: Window) -> NDArray[Any]:
        return np.asarray(array[(*lead, *(slice(lo, hi) for lo, hi in window))])

    return ForeignVolume(_grid(multiscale, dataset, axes[-3:], array.shape[-3:], path), np.dtype(array.dtype), read)


def _check_axes(axes: list[dict[str, Any]], shape: tuple[int, ...], path: Path) -> None:
    names = [str(axis.get("name", "?")).lower() for axis in axes]
    if names[-3:] != ["z", "y", "x"] or any(n != 1 for n in shape[:-3]):
        raise StackError(f"axes are {', '.join(names)} of shape {tuple(shape)}; write them in the order z, y, x, one channel", path=path)


def _grid(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], axes: list[dict[str, Any]], shape: tuple[int, ...], path: Path
) -> Grid:
    """Scales of the dataset and of the multiscale multiply; translations add up, the dataset's in the multiscale's scale."""
    inner, outer = _transform(dataset), _transform(multiscale)
    units = [_UNIT_UM.get(str(axis.get("unit", "")).lower()) for axis in axes]
    if inner["scale"] is None and outer["scale"] is None:
        raise StackError("has no scale: nobody can tell its voxel size; write coordinateTransformations of type scale", path=path)
    if None in units:
        found = [axis.get("unit") for axis in axes]
        raise StackError(f"the axes have no unit of length (found {found}); write unit: micrometer", path=path)
    factor = np.array(units, np.float64)
    one = np.ones(3)
    outer_scale = one if outer["scale"] is None else outer["scale"]
    scale = outer_scale * (one if inner["scale"] is None else inner["scale"]) * factor
    origin = (outer_scale * _or_zero(inner["translation"]) + _or_zero(outer["translation"])) * factor
    try:
        return Grid((shape[0], shape[1], shape[2]), tuple(scale.tolist()), tuple(origin.tolist()))
    except GridError as error:
        raise StackError(f"its scale makes no grid: {error}", path=path) from error


def _transform(holder: Mapping[str, Any]) -> dict[str, NDArray[np.float64] | None]:
    found: dict[str, NDArray[np.float64] | None] = {"scale": None, "translation": None}
    for transform in holder.get("coordinateTransformations", []):
        kind = transform.get("type")
        if kind in found:
            found[kind] = np.asarray(transform[kind][-3:], np.float64)
    return found


def _or_zero(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.zeros(3) if values is None else values
