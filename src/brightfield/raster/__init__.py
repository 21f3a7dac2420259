"""Skeletons to voxels, exactly: `rasterize` and what it is made of. Pure functions, no files."""

from __future__ import annotations

from brightfield.raster.voxels import rasterize

__all__ = ["rasterize"]
