"""Grids: where voxels are, in micrometres. The names that scripts may rely on; they live in `core/space.py`."""

from __future__ import annotations

from brightfield.core.space import Grid, download_grid, stack_grid

__all__ = ["Grid", "download_grid", "stack_grid"]
