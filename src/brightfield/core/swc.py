"""SWC files: text in, one `Skeleton` out, and back.

An SWC file has one node per line: ``id type x y z radius parent``; x, y, z and radius are um unless a convention says otherwise, parent -1
is a root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Finding, Label, Severity
from brightfield.core.errors import SkeletonError
from brightfield.core.files import write_bytes
from brightfield.core.skeleton import ROOT, Indices, Skeleton, norm, on_cycles
from brightfield.core.soma import with_one_soma
from brightfield.core.space import Grid
from brightfield.core.swc_convention import SwcConvention
from brightfield.core.swc_text import FARTHEST_UM, SWC_COLUMNS, SwcText, bytes_of

LARGEST_ID = 2**53
"""Ids are read as float64, exact up to here."""

_IS_LENGTH = np.array([False, False, True, True, True, True, False])


def read_swc(path: str | Path, convention: SwcConvention | None = None) -> Skeleton:
    """Read an SWC file.

    Reads any line ending, comments (also behind a node), blank lines, a UTF-8 mark, commas and semicolons between fields, further columns,
    several trees, ids from 0 or with gaps, children before parents and nodes at one position. A soma of three points and an outline become
    one sphere. Raises SkeletonError, with file, line and remedy, for anything that is not a forest of finite nodes.
    """
    return parse_swc(bytes_of(path, SkeletonError), path=path, convention=convention)


def parse_swc(data: bytes, path: str | Path = "<bytes>", convention: SwcConvention | None = None) -> Skeleton:
    """Parse the bytes of an SWC file; `path` is only for messages. See `read_swc`."""
    convention = convention or SwcConvention()
    text = SwcText.of(data, path)
    traced = _traced(text, convention)
    skeleton, kept = with_one_soma(traced)
    findings = (*_line_end_findings(text, traced), *convention.contradictions(text.data.decode("latin-1")), *_findings(text, traced, kept))
    return replace(skeleton, findings=findings)


def _traced(text: SwcText, convention: SwcConvention) -> Skeleton:
    """The nodes as they are in the file."""
    values = text.values()
    position_zyx_um, radius_um = convention.position_zyx_um(values[:, 2:5]), convention.radius_um(values[:, 5])
    lengths = np.column_stack([position_zyx_um, radius_um])
    text.refuse(~np.all(np.abs(lengths) < FARTHEST_UM, axis=1), "a coordinate or radius is not a number of micrometres")
    text.refuse(radius_um < 0, "the radius is negative")
    for column in np.flatnonzero(~_IS_LENGTH):
        whole = (values[:, column] == np.floor(values[:, column])) & (np.abs(values[:, column]) < LARGEST_ID)
        text.refuse(~whole, f"{SWC_COLUMNS[column]} is not a whole number")
    node_id, kind, parent_id = values[:, ~_IS_LENGTH].astype(np.int64).T
    text.refuse(node_id < 0, "the node id is negative")
    parent = _parent_index(text, node_id, parent_id)
    _refuse_cycles(text, node_id, parent)
    return Skeleton(node_id, kind, position_zyx_um, radius_um, parent)


def _parent_index(text: SwcText, node_id: Indices, parent_id: Indices) -> Indices:
    order = np.argsort(node_id, kind="stable")
    by_id = node_id[order]
    repeats = order[1:][by_id[1:] == by_id[:-1]]
    if len(repeats):
        row = int(repeats.min())
        first = text.line(int(np.argmax(node_id == node_id[row])))
        text.fail(row, f"node id {node_id[row]} is already the one of line {first}")
    found = np.minimum(np.searchsorted(by_id, parent_id), len(order) - 1)
    is_root = parent_id == ROOT
    missing = ~is_root & (by_id[found] != parent_id)
    if missing.any():
        row = int(np.argmax(missing))
        text.fail(row, f"the parent {parent_id[row]} is not a node of the file (a root has parent -1)")
    return np.where(is_root, ROOT, order[found])


def _refuse_cycles(text: SwcText, node_id: Indices, parent: Indices) -> None:
    found = on_cycles(parent)
    if len(found):
        row = int(found.min())
        members = [row]
        while (up := int(parent[members[-1]])) != row:
            members.append(up)
        chain = " -> ".join(str(node_id[i]) for i in [*members[:6], *([row] if len(members) <= 6 else [])])
        text.fail(row, f"nodes are their own ancestors: {chain}{' ...' if len(members) > 6 else ''}")


def _line_end_findings(text: SwcText, skeleton: Skeleton) -> list[Finding]:
    """A last line without line end may be cut inside its parent id; certain when a continued id names a node ten times nearer."""
    if b"#" in (tail := text.data[text.data.rfind(b"\n") + 1 :]) or not tail.strip():
        return []
    last = len(skeleton) - 1
    stated = skeleton.parent[last]
    if stated != ROOT:
        digits = str(skeleton.node_id[stated])
        continued = np.array([str(i).startswith(digits) for i in skeleton.node_id]) & (np.arange(len(skeleton)) != last)
        away_um = norm(skeleton.position_zyx_um[continued] - skeleton.position_zyx_um[last])
        if away_um.min() < skeleton.edge_length_um[last] / 10:
            text.fail(last, f"the file ends inside this line: node {digits} is no neighbour, a node whose id goes on like that is")
    message = f"line {text.line(last)}, the last one, has no line end: the file may be cut"
    return [Finding(Severity.WARNING, "swc-line-end", message, remedy="compare its size or its hash with the source")]


def _findings(text: SwcText, skeleton: Skeleton, kept: NDArray[np.bool_]) -> Iterator[Finding]:
    """What is odd about the nodes that are kept: all but those of a soma that became one sphere."""
    odd = [
        (
            "swc-type",
            skeleton.label == Label.UNKNOWN,
            "with a type other than 1 to 4",
            "they are labelled unknown; give them one to train on them",
        ),
        ("swc-radius", skeleton.radius_um == 0, "of radius 0", "they are drawn with `labels.r_min_um`"),
        ("swc-frame", (skeleton.position_zyx_um < 0).any(axis=1), "with a negative coordinate", "take the SWC in the frame of the image"),
    ]
    for check, bad, what, remedy in odd:
        found = bad & (kept if kept.all() else skeleton.type != Label.SOMA)
        if found.any():
            message = f"{np.count_nonzero(found)} node(s) {what}, first on line {text.line(int(np.argmax(found)))}"
            yield Finding(Severity.WARNING, check, message, remedy=remedy)
    yield from _soma_findings(text, skeleton, kept)
    if text.n_columns > len(SWC_COLUMNS):
        message = f"every line has {text.n_columns} fields: those after the seventh are not read"
        yield Finding(Severity.INFO, "swc-columns", message, remedy="nothing, if the first seven are those of SWC")


def _soma_findings(text: SwcText, skeleton: Skeleton, kept: NDArray[np.bool_]) -> Iterator[Finding]:
    somata = np.flatnonzero(skeleton.type == Label.SOMA)
    if not kept.all():
        message = f"the soma's {len(somata)} nodes, first on line {text.line(int(somata[0]))}, are read as the one sphere that they mean"
        yield Finding(Severity.INFO, "swc-soma", message, remedy="look at its radius with `brightfield inspect`")
    elif len(somata) != 1 or skeleton.parent[somata[0]] != ROOT:
        message = f"one soma node (type 1) that is a root is expected, found {len(somata)}" + (" with a parent" if len(somata) == 1 else "")
        yield Finding(Severity.WARNING, "swc-soma", message, remedy="check the reconstruction")


# ----------------------------------------------------------------------------------------------------------------------- writing SWC


def format_swc(skeleton: Skeleton, grid: Grid | None = None) -> bytes:
    """The SWC text of a skeleton, nodes in array order.

    Without `grid`: um, with the shortest decimals that read back to the same float64. With `grid`: continuous voxel coordinates of it (an
    integer is a voxel's centre) and radii in voxels of x.
    """
    position = skeleton.position_zyx_um if grid is None else grid.to_voxel(skeleton.position_zyx_um)
    radius = skeleton.radius_um if grid is None else skeleton.radius_um / grid.voxel_size_zyx_um[2]
    unit = "um" if grid is None else f"voxels of (z, y, x) = {grid.voxel_size_zyx_um} um, radius in voxels of x"
    parent_id = np.where(skeleton.parent == ROOT, ROOT, skeleton.node_id[skeleton.parent])
    columns = (skeleton.node_id, skeleton.type, *position.T[::-1], radius, parent_id)
    rows = [" ".join(map(repr, row)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return "\n".join([f"# x, y, z in {unit}", f"# {' '.join(SWC_COLUMNS)}", *rows, ""]).encode("ascii")


def write_swc(skeleton: Skeleton, path: str | Path, grid: Grid | None = None) -> Path:
    """Write `format_swc` atomically; `read_swc` of an export in um gives an equal skeleton."""
    return write_bytes(Path(path), format_swc(skeleton, grid))
