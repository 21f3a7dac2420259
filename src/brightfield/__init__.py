"""Training data for neuron reconstruction, versioned and proven.

The names below are the public face. Each is imported when it is first used, so that ``import brightfield`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from brightfield.core.version import __version__

if TYPE_CHECKING:
    from brightfield.core.space import Grid
    from brightfield.core.swc import read_swc
    from brightfield.dataset import CellData, cells, manifest, open_cell
    from brightfield.raster.voxels import rasterize

_HOMES = {
    "CellData": "dataset",
    "Grid": "core.space",
    "cells": "dataset",
    "manifest": "dataset",
    "open_cell": "dataset",
    "rasterize": "raster.voxels",
    "read_swc": "core.swc",
}
__all__ = ["CellData", "Grid", "__version__", "cells", "manifest", "open_cell", "rasterize", "read_swc"]


def __getattr__(name: str) -> Any:
    """The public names, each from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module 'brightfield' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f"brightfield.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
