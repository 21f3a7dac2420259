"""Layers beside the dataset's own: predictions, on one of the levels of the cell's volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import NEURITE_LABELS, Label
from brightfield.core.errors import ConfigError
from brightfield.core.space import Grid, Shape, Triple, Window

_LOOK_PX = 64
"""Half the side of the window that is read to tell codes from intensities."""


@dataclass(frozen=True)
class Extra:
    """A layer: label codes (`is_codes`) or intensities up to about `highest`.

    store: the OME-Zarr that a viewer reads by itself; None where voxels are `read` for it.
    """

    name: str
    grid: Grid
    dtype: np.dtype[Any]
    read: Callable[[Window], NDArray[Any]]
    store: Path | None
    is_codes: bool
    highest: float

    @property
    def shape(self) -> Shape:
        """Voxels along z, y and x."""
        return self.grid.shape_zyx

    def __getitem__(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        """The voxels of a box, as of an array."""
        (z0, z1, _), (y0, y1, _), (x0, x1, _) = (part.indices(n) for part, n in zip(selection, self.shape, strict=True))
        return self.read(((z0, z1), (y0, y1), (x0, x1)))


def extra_layers(paths: Sequence[Path], specimen_id: int, grids: Sequence[Grid], around_zyx: Triple) -> tuple[Extra, ...]:
    """The layers of a cell from files or directories, names made unique; a directory without one of this cell gives none.

    grids: of the cell's volumes, finest first. Raises InputError for what is no volume, GridError for one on another grid.
    """
    found = [(path, _file_of(path, specimen_id)) for path in paths]
    layers = [_open(file, grids, around_zyx) for _, file in found if file is not None]
    return tuple(_renamed(layer, k, layers) for k, layer in enumerate(layers))


def _file_of(path: Path, specimen_id: int) -> Path | None:
    from brightfield.evaluation.predictions import prediction_files

    several = path.is_dir() and not any((path / name).exists() for name in ("zarr.json", ".zattrs", ".zgroup"))
    return prediction_files(path).get(specimen_id) if several else prediction_files(path, specimen_id)[specimen_id]


def _open(file: Path, grids: Sequence[Grid], around_zyx: Triple) -> Extra:
    from brightfield.evaluation.predictions import TRACE_SUFFIX, level_of, open_raw

    if file.suffix.lower() == TRACE_SUFFIX:
        raise ConfigError(f"--layer {file}: is a trace; layers are volumes (OME-Zarr, npy, TIFF)")
    raw = open_raw(file)
    grid = grids[level_of(raw, grids)]
    values = raw.read(_window(grid, grids[0].to_um(around_zyx)))
    known = [0, *(int(label) for label in (*NEURITE_LABELS, Label.UNKNOWN))]
    is_codes = raw.dtype.kind in "iu" and bool(np.isin(values, known).all())
    highest = float(np.nanmax(values)) if values.size and raw.dtype.kind == "f" else float(values.max(initial=1))
    return Extra(file.stem, grid, raw.dtype, raw.read, file if file.is_dir() else None, is_codes, max(highest, 1.0))


def _window(grid: Grid, around_um: NDArray[np.float64]) -> Window:
    """A box around a place, within the grid."""
    index = np.clip(grid.to_index(around_um), 0, np.array(grid.shape_zyx) - 1).tolist()
    (z0, z1), (y0, y1), (x0, x1) = ((max(i - _LOOK_PX, 0), min(i + _LOOK_PX, n)) for i, n in zip(index, grid.shape_zyx, strict=True))
    return ((z0, z1), (y0, y1), (x0, x1))


def _renamed(layer: Extra, number: int, layers: Sequence[Extra]) -> Extra:
    again = sum(other.name == layer.name for other in layers) > 1
    return replace(layer, name=f"{layer.name} ({number + 1})" if again else layer.name)
