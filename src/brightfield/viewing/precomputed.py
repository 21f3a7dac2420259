"""Skeletons in Neuroglancer's precomputed format: a segment per code, with names.

Source: github.com/google/neuroglancer, src/datasource/precomputed/skeletons.md and segment_properties.md.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np

from brightfield.core.space import Grid
from brightfield.viewing.material import Made, Readable, Shelf, shelf_of
from brightfield.viewing.scene import Lines


def skeletons(lines: Mapping[int, Lines], names: Mapping[int, str], grid: Grid) -> Shelf:
    """The files of a skeleton source whose segments are the codes of `lines`. Voxel 0 of `grid` begins at 0, as Neuroglancer has it."""
    files: dict[str, Readable] = {str(code): Made(_encoded(some, grid)) for code, some in lines.items()}
    matrix = [1000, 0, 0, 0, 0, 1000, 0, 0, 0, 0, 1000, 0]  # um to nm
    files["info"] = _json({"@type": "neuroglancer_skeletons", "transform": matrix, "vertex_attributes": [], "segment_properties": "names"})
    return shelf_of({**files, "names/info": properties(names)})


def properties(names: Mapping[int, str]) -> Made:
    """The file that names segments."""
    label = {"id": "label", "type": "label", "values": list(names.values())}
    inline = {"ids": [str(code) for code in names], "properties": [label]}
    return _json({"@type": "neuroglancer_segment_properties", "inline": inline})


def _encoded(lines: Lines, grid: Grid) -> bytes:
    """Counts of points and edges, points (x, y, z) float32 um, edges uint32; little-endian."""
    points = ((lines.points_zyx + 0.5) * grid.voxel_size_zyx_um)[:, ::-1]
    counts = struct.pack("<II", len(points), len(lines.edges))
    return counts + points.astype("<f4").tobytes() + np.ascontiguousarray(lines.edges).astype("<u4").tobytes()


def _json(document: dict[str, object]) -> Made:
    return Made(json.dumps(document).encode())
