"""The OME-Zarr 0.5 metadata of a volume: which levels it has, where their voxels are, and what its labels are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from brightfield.core.space import Grid, Shape

OME_VERSION = "0.5"
AXES = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]


@dataclass(frozen=True, slots=True)
class LabelMeta:
    """What makes a volume a label image: colours, names, and the image it labels.

    colours_rgba: label value -> red, green, blue, alpha, each 0-255.
    names: label value -> its name, for the same values; may be empty.
    source_image: path of the image's group, relative to this label's group.
    """

    colours_rgba: Mapping[int, tuple[int, int, int, int]]
    source_image: str
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.names and self.names.keys() != self.colours_rgba.keys():
            raise ValueError(f"names are for {sorted(self.names)}, colours for {sorted(self.colours_rgba)}; OME-Zarr wants them equal")

    def to_dict(self) -> dict[str, Any]:
        """The `image-label` metadata of OME-Zarr."""
        meta: dict[str, Any] = {
            "version": OME_VERSION,
            "colors": [{"label-value": value, "rgba": list(rgba)} for value, rgba in sorted(self.colours_rgba.items())],
            "source": {"image": self.source_image},
        }
        if self.names:
            meta["properties"] = [{"label-value": value, "name": name} for value, name in sorted(self.names.items())]
        return meta


def multiscale(name: str, grids: Sequence[Grid]) -> dict[str, Any]:
    """The multiscale metadata of a volume with these levels, finest first."""
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": list(grid.voxel_size_zyx_um)},
                {"type": "translation", "translation": list(grid.origin_zyx_um)},
            ],
        }
        for level, grid in enumerate(grids)
    ]
    return {"name": name, "axes": AXES, "datasets": datasets}


def datasets_of(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The levels that a group's attributes name, finest first. Raises KeyError, IndexError, TypeError or ValueError for others."""
    image = attributes["ome"]["multiscales"][0]
    if image["axes"] != AXES:
        raise ValueError(f"axes are {image['axes']}")
    datasets: list[dict[str, Any]] = image["datasets"]
    if [dataset["path"] for dataset in datasets] != [str(level) for level in range(len(datasets))]:
        raise ValueError("levels are not named 0, 1, ...")
    return datasets


def grid_of(shape_zyx: Shape, dataset: Mapping[str, Any]) -> Grid:
    """Where the voxels of a level are. Raises KeyError, ValueError or GridError where the metadata do not say it."""
    transforms = {transform["type"]: transform for transform in dataset["coordinateTransformations"]}
    origin = transforms.get("translation", {"translation": (0.0, 0.0, 0.0)})["translation"]
    return Grid(shape_zyx, tuple(transforms["scale"]["scale"]), tuple(origin))
