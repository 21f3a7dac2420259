"""Marker files: where the tracer says that a dendrite is cut, or an axon is not traced further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from brightfield.core.codes import Finding, MarkerKind, Severity
from brightfield.core.errors import MarkerError
from brightfield.core.skeleton import Indices, Reals, Skeleton, norm
from brightfield.core.space import Triple
from brightfield.core.swc_text import FARTHEST_UM, bytes_of, refuse_wide_text

_MARKER_COLUMNS = ("x", "y", "z", "radius", "shape", "name", "comment", "color_r", "color_g", "color_b")


@dataclass(frozen=True, slots=True)
class Marker:
    """One mark of the tracer. kind: the file's `name`, a `MarkerKind` where it is known. position_zyx_um: in the SWC's frame."""

    kind: int
    position_zyx_um: Triple


def read_markers(path: str | Path, voxel_size_zyx_um: Triple) -> tuple[Marker, ...]:
    """Read a marker file, in the order of the file.

    Positions in the file count voxels from one, so one voxel of the full-resolution stack is subtracted: they then coincide with SWC
    nodes. Raises MarkerError with file, line and remedy. A file that does not exist is an error here; a cell without one is not.
    """
    return parse_markers(bytes_of(path, MarkerError), voxel_size_zyx_um, path)


def parse_markers(data: bytes, voxel_size_zyx_um: Triple, path: str | Path = "<bytes>") -> tuple[Marker, ...]:
    """Parse the bytes of a marker file; `path` is only for messages. See `read_markers`."""
    refuse_wide_text(data, path, MarkerError)
    markers = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        text = line.decode("utf-8", "replace").strip()
        if text and not text.startswith("#"):
            markers.append(_marker(text, voxel_size_zyx_um, path, number))
    return tuple(markers)


def _marker(text: str, voxel_size_zyx_um: Triple, path: str | Path, line: int) -> Marker:
    fields = [field.strip() for field in text.split(",")]
    if len(fields) != len(_MARKER_COLUMNS):
        expected = f"a marker has the {len(_MARKER_COLUMNS)} fields {','.join(_MARKER_COLUMNS)}"
        raise MarkerError(f"{expected}, this line has {len(fields)}; fetch the file again", path=path, line=line)
    try:
        x, y, z, kind = float(fields[0]), float(fields[1]), float(fields[2]), int(fields[_MARKER_COLUMNS.index("name")])
        if not all(abs(value) < FARTHEST_UM for value in (x, y, z)):
            raise ValueError
    except ValueError as problem:
        expected = f"x, y, z must be numbers of micrometres and name the kind ({', '.join(str(int(k)) for k in MarkerKind)})"
        raise MarkerError(f"{expected}, found {text!r}; fetch the file again", path=path, line=line) from problem
    size_z, size_y, size_x = voxel_size_zyx_um
    return Marker(kind, (z - size_z, y - size_y, x - size_x))


def nearest_nodes(skeleton: Skeleton, position_zyx_um: ArrayLike, among: Indices) -> tuple[Indices, Reals]:
    """For each position (m, 3) um the nearest node of `among` (indices) and its distance in um; a tie goes to the first of `among`."""
    positions = np.asarray(position_zyx_um, np.float64).reshape(-1, 3)
    away = [norm(skeleton.position_zyx_um[among] - position) for position in positions]
    nearest = np.array([int(np.argmin(distance)) for distance in away], np.int64)
    return among[nearest], np.array([distance.min() for distance in away], np.float64)


def marker_nodes(skeleton: Skeleton, markers: Sequence[Marker], *, tolerance_um: float = 0.01) -> tuple[dict[int, int], list[Finding]]:
    """Which tip each cut (10) or untraced (20) marker means: {node index: kind}, and what does not fit.

    A marker is on a tip when it lies within `tolerance_um` of it (all real ones do). Soma markers (30) mark a surface, not a node.
    """
    marked: dict[int, int] = {}
    findings = []
    on_tip = [m for m in markers if m.kind in (MarkerKind.CUT_DENDRITE, MarkerKind.UNTRACED_AXON)]
    if on_tip and len(skeleton.tips):
        nodes, away_um = nearest_nodes(skeleton, [m.position_zyx_um for m in on_tip], skeleton.tips)
        for marker, node, distance in zip(on_tip, nodes.tolist(), away_um.tolist(), strict=True):
            if distance <= tolerance_um:
                marked[node] = marker.kind
            else:
                message = f"marker {marker.kind} at (z, y, x) {marker.position_zyx_um} um is {distance:.2f} um from the nearest tip"
                remedy = "check that the marker file and the SWC are of the same release"
                findings.append(Finding(Severity.WARNING, "marker-tip", message, remedy=remedy))
    known = {int(kind) for kind in MarkerKind}
    for kind in sorted({m.kind for m in markers} - known):
        message = f"marker kind {kind} is not one of {sorted(known)}: nothing is made of it"
        findings.append(Finding(Severity.WARNING, "marker-kind", message, remedy="tell us what it means"))
    return marked, findings
