"""Skeletons: `read_swc` and what it returns. The names that scripts may rely on; they live in `core/`."""

from __future__ import annotations

from brightfield.core.markers import Marker, read_markers
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import parse_swc, read_swc, write_swc

__all__ = ["Marker", "Skeleton", "parse_swc", "read_markers", "read_swc", "write_swc"]
