"""Skeletons: `read_swc` and what it returns. The names that scripts may rely on; they live in `core/skeleton.py`."""

from __future__ import annotations

from brightfield.core.skeleton import Marker, Skeleton, parse_swc, read_markers, read_swc, write_swc

__all__ = ["Marker", "Skeleton", "parse_swc", "read_markers", "read_swc", "write_swc"]
