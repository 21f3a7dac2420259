"""A stack in an OME-Zarr of 0.4 or 0.5, as an image or in the layout of bioformats2raw; its axes by name, its scale from wherever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brightfield.core.errors import StackError
from brightfield.sources.folder.axes import Choice, PlaneAxes, plane_axes
from brightfield.sources.folder.calibration import Statements
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.ome_xml import parse_ome
from brightfield.sources.folder.tiff_pages import Box, Pixels
from brightfield.volumes.ranges import Ranges, RangeStore

_LAYOUT = "bioformats2raw.layout"


class ZarrStack:
    """The finest level of an OME-Zarr image: any axes by name, any chunks, shards and compressor that zarr reads."""

    def __init__(self, ranges: Ranges, entry: Entry, choice: Choice) -> None:
        import zarr

        self._ranges, self._entry = ranges, entry
        try:
            root: Any = zarr.open_group(RangeStore(ranges, entry.path), mode="r")
            group, attributes, name = _image(root, entry.path)
            multiscale = _multiscale(attributes, entry.path)
            self._array: Any = group[multiscale["datasets"][0]["path"]]
            names = [axis if isinstance(axis, str) else axis["name"] for axis in multiscale["axes"]]
            if len(names) != len(self._array.shape):
                raise ValueError(f"{len(names)} axes are named, the array has {len(self._array.shape)}")
            _refuse_finer(group, multiscale["datasets"], self._array.shape, entry.path)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
            raise StackError(f"not an OME-Zarr image with multiscales and axes ({error})", path=entry.path) from error
        if self._array.dtype.name not in ("uint8", "uint16"):
            raise StackError(f"expected grey values of 8 or 16 bit, found {self._array.dtype}", path=entry.path)
        self._axes = plane_axes(names, self._array.shape, choice, entry.path)
        self.kind, self.axes, self.statements = (
            f"OME-Zarr {_version(attributes)}{f', image {name}' if name else ''}",
            str(self._axes),
            Statements(),
        )
        _state(self.statements, multiscale, self._axes, entry.path)
        self._state_companion(name)
        self.numbers = tuple(range(self._axes.n_planes))
        self.shape_yx, self.dtype = self._axes.shape_yx, np.dtype(self._array.dtype).newbyteorder("=")

    def _state_companion(self, name: str) -> None:
        """Take down what the OME-XML of the layout of bioformats2raw says, whose old releases state no scale."""
        path = f"{self._entry.path}/OME/METADATA.ome.xml"
        if name and self._ranges.system.exists(path):
            images = parse_ome(self._ranges.whole(path), path).images
            if len(images) == 1:
                images[0].state(self.statements)

    def stamp(self, number: int) -> str:
        """The name and the plane: a store has no size."""
        return f"{self._entry.name}:{number}{self._axes.suffix}"

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane: cut from all planes of its chunks, which are kept for the planes that follow."""
        depth = 1 if self._axes.z is None else self._array.chunks[self._axes.z]
        first, (y0, y1, x0, x1) = number // depth * depth, box
        place = self._axes.place(slice(first, first + depth), slice(y0, y1), slice(x0, x1))
        slab = self._ranges.cached((self._entry.path, first, box), lambda: np.asarray(self._array[place]).transpose(self._axes.order))
        return np.ascontiguousarray(slab if self._axes.z is None else slab[number - first], self.dtype)


def _image(root: Any, path: str) -> tuple[Any, Mapping[str, Any], str]:
    """The group of the one image of a store, its attributes and its name. Raises StackError for plates and several images."""
    attributes = _attributes(root)
    if {"plate", "well"} & attributes.keys():
        raise StackError("it is a plate of many fields (HCS); save the one that the skeleton is of as an image", path=path)
    if _LAYOUT not in attributes:
        return root, attributes, ""
    series = _attributes(root["OME"]).get("series") if "OME" in root else None
    names = [str(name) for name in series] if series else _counted(root)
    if len(names) != 1:
        raise StackError(f"{len(names)} images in one store ({', '.join(names)}), expected one; save the stack alone", path=path)
    return root[names[0]], _attributes(root[names[0]]), names[0]


def _counted(root: Any) -> list[str]:
    """The images 0, 1, ... of a store that has no list of them."""
    names: list[str] = []
    while str(len(names)) in root:
        names.append(str(len(names)))
    return names


def _attributes(group: Any) -> Mapping[str, Any]:
    """What a group says: under `ome` since 0.5."""
    attributes: Mapping[str, Any] = group.attrs.asdict()
    return {**attributes, **attributes.get("ome", {})}


def _multiscale(attributes: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    multiscales: Sequence[Mapping[str, Any]] = attributes["multiscales"]
    if len(multiscales) > 1:
        raise StackError(f"{len(multiscales)} images in one group (multiscales), expected one; save the stack alone", path=path)
    return multiscales[0]


def _refuse_finer(group: Any, datasets: Sequence[Mapping[str, Any]], shape: Sequence[int], path: str) -> None:
    """Raise where the first level is not the finest: which one is meant is not clear then."""
    for dataset in datasets[1:]:
        if np.prod(group[dataset["path"]].shape) > np.prod(shape):
            raise StackError(f"level {dataset['path']} is larger than the first one; levels go from fine to coarse", path=path)


def _version(attributes: Mapping[str, Any]) -> str:
    multiscale = attributes["multiscales"][0]
    return str(attributes.get("version", multiscale.get("version", "")))


def _state(statements: Statements, multiscale: Mapping[str, Any], axes: PlaneAxes, path: str) -> None:
    """Take down the scale: that of the level times that of the whole image."""
    level = _scale(multiscale["datasets"][0], len(axes.names), path)
    whole = _scale(multiscale, len(axes.names), path)
    if level is None and whole is None:
        return
    where = (
        "scale of the multiscale and of its first level" if whole and level else "scale of the multiscale" if whole else "scale of level 0"
    )
    for position, name in enumerate(axes.names):
        if name in "zyx":
            factor = (level[position] if level else 1.0) * (whole[position] if whole else 1.0)
            axis = multiscale["axes"][position]
            statements.add(name, factor, None if isinstance(axis, str) else axis.get("unit"), f"{where}, {name}")


def _scale(place: Mapping[str, Any], n_axes: int, path: str) -> list[float] | None:
    """The scale stated at a level or at the whole image, along every axis. Raises StackError for one that cannot be taken."""
    scale = None
    for transform in place.get("coordinateTransformations", ()):
        kind = transform.get("type")
        if kind == "scale":
            values = transform.get("scale")
            if scale is not None or not isinstance(values, list) or len(values) != n_axes:
                raise StackError(f"expected one scale of {n_axes} numbers, found {transform}", path=path)
            scale = [float(value) for value in values]
        elif kind not in ("translation", "identity"):
            raise StackError(f"the transformation {kind!r} is none of scale, translation, identity; save it with a scale", path=path)
    return scale
