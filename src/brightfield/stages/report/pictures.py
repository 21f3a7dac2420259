"""Pictures of a built cell: its projection with the arbor on it, and slices with labels, small enough to be looked at in a page.

What was not downloaded is never shown as if it were tissue: it is hatched. Files carry no metadata, lines are SVG paths in voxels of the
finest level, so the same data gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import LABEL_COLOURS_RGB, NEURITE_LABELS, Label, css
from brightfield.core.files import write_bytes
from brightfield.core.space import Window
from brightfield.volumes.volume import Volume

if TYPE_CHECKING:
    import pandas as pd

type Grey = NDArray[np.uint8]
type Colours = NDArray[np.uint8]

PROJECTION_PX = 640
"""Longest side of a projection."""
THUMBNAIL_PX = 132
"""Longest side of the small picture in the index."""
SLICE_PX = 176
"""Side of a slice, in voxels of the finest level."""
_READ_PX = 1600
_PAPER, _HATCH = 236, 214
_OPACITY, _UNKNOWN_OPACITY = 0.55, 0.30


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's file beside the page, its size, and what it shows, for those who do not see it."""

    file: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A slice: through which axis, raw (h, w) and with labels (h, w, 3), both uint8."""

    name: str
    raw: Grey
    tinted: Colours


@dataclass(frozen=True, slots=True)
class Overlay:
    """The arbor as SVG: one path per class (colour, name, path data), in voxels of the finest level."""

    width: int
    height: int
    paths: tuple[tuple[str, str, str], ...]


def save(pixels: Grey | Colours, path: Path, alt: str) -> Picture:
    """Write grey (h, w) or RGB (h, w, 3) uint8 as a PNG, or as a JPEG where the file is called so."""
    from PIL import Image

    stream = BytesIO()
    if path.suffix == ".jpg":
        Image.fromarray(pixels).save(stream, "JPEG", quality=85, optimize=True)
    else:
        Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    write_bytes(path, stream.getvalue())
    return Picture(path.name, pixels.shape[1], pixels.shape[0], alt)


def colour(label: Label) -> str:
    """A class' colour as CSS writes it."""
    return css(LABEL_COLOURS_RGB[label])


# ------------------------------------------------------------------------------------------------------------------- projections


def projection(image: Volume, tiles: pd.DataFrame) -> Grey:
    """The minimum along z of what was downloaded, hatched where nothing was; `tiles` are the cell's rows of the ledger."""
    level = next((k for k, spec in enumerate(image.specs) if max(spec.shape_zyx[1:]) <= _READ_PX), len(image.specs) - 1)
    depth, height, width = image.specs[level].shape_zyx
    slab = image.specs[level].chunk_zyx[0]
    # One less than the minimum: 0, where nothing was downloaded, wraps round to the brightest.
    below = np.full((height, width), _white(image), image.dtype)
    for z in range(0, depth, slab):
        voxels = image.read(((z, min(z + slab, depth)), (0, height), (0, width)), level)
        np.minimum(below, (voxels - 1).min(axis=0), out=below)
    lowest = np.where(below == _white(image), below, below + 1)
    factor = image.grids[level].voxel_size_zyx_um[2] / image.grid.voxel_size_zyx_um[2]
    covered = coverage(tiles, (height, width), factor)
    step = -(-max(height, width) // PROJECTION_PX)
    shrunk = _shrunk(as_grey(lowest, image), step)
    return hatched(shrunk, covered[::step, ::step][: shrunk.shape[0], : shrunk.shape[1]])


def thumbnail(seen: Grey, nodes: pd.DataFrame, shape_yx: tuple[int, int]) -> Colours:
    """A projection with the arbor on it, in the colours of its classes, at most `THUMBNAIL_PX` wide and high: (h, w, 3) uint8.

    shape_yx: of the finest level, in whose voxels the nodes lie.
    """
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(seen).convert("RGB")
    pen = ImageDraw.Draw(canvas)
    scale = canvas.width / shape_yx[1]
    thickness = max(1, round(max(canvas.size) / THUMBNAIL_PX))
    position = _positions(nodes)
    for label in reversed(NEURITE_LABELS[1:]):
        for child, parent in _edges(nodes, label):
            ends = [(v + 0.5) * scale for v in (*position[parent], *position[child])]
            pen.line(ends, fill=LABEL_COLOURS_RGB[label], width=thickness)
    canvas.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(canvas)


def coverage(tiles: pd.DataFrame, shape_yx: tuple[int, int], factor: float = 1.0) -> NDArray[np.bool_]:
    """Columns (y, x) of which at least one plane was downloaded, on a grid `factor` times coarser than the tiles'."""
    covered = np.zeros(shape_yx, bool)
    boxes = tiles.loc[tiles["state"] == "ok", ["y0", "y1", "x0", "x1"]].drop_duplicates()
    for y0, y1, x0, x1 in (boxes.to_numpy(np.int64) / factor).tolist():
        covered[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return covered


def _white(image: Volume) -> int:
    return int(np.iinfo(image.dtype).max)


def as_grey(pixels: NDArray[np.unsignedinteger[Any]], image: Volume) -> Grey:
    """8 bits; a 16-bit stack by its brighter byte."""
    return (pixels if image.dtype == np.uint8 else pixels >> 8).astype(np.uint8)


def _shrunk(pixels: Grey, step: int) -> Grey:
    """Means of step x step pixels, rounded; an incomplete block at the far edge falls off."""
    rows, columns = pixels.shape[0] // step, pixels.shape[1] // step
    blocks = pixels[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return ((blocks.sum(axis=(1, 3), dtype=np.int64) + step * step // 2) // (step * step)).astype(np.uint8)


def hatched(pixels: Grey, known: NDArray[np.bool_]) -> Grey:
    """Light diagonal lines where nothing is known."""
    y, x = np.indices(pixels.shape)
    lines = np.where((y + x) % 8 < 2, _HATCH, _PAPER).astype(np.uint8)
    return np.where(known, pixels, lines)


def overlay(nodes: pd.DataFrame, shape_yx: tuple[int, int]) -> Overlay:
    """The arbor seen along z. `nodes`: the cell's rows of the nodes table. A soma of one node has no edge, and none is drawn."""
    position = _positions(nodes)
    paths = []
    for label in reversed(NEURITE_LABELS[1:]):
        data = _lines(_edges(nodes, label), position)
        if data:
            paths.append((colour(label), label.name.replace("_", " ").lower(), data))
    return Overlay(shape_yx[1], shape_yx[0], tuple(paths))


def _positions(nodes: pd.DataFrame) -> dict[int, tuple[float, float]]:
    """(x, y) in voxels by node id."""
    return dict(zip(nodes["node_id"].tolist(), zip(nodes["x_vox"].tolist(), nodes["y_vox"].tolist(), strict=True), strict=True))


def _edges(nodes: pd.DataFrame, label: Label) -> list[tuple[int, int]]:
    """(child, parent) of every edge whose child is of a class, by child."""
    rows = nodes[(nodes["label"] == int(label)) & nodes["parent_id"].notna()].sort_values("node_id")
    return list(zip(rows["node_id"].tolist(), rows["parent_id"].tolist(), strict=True))


def _lines(edges: list[tuple[int, int]], position: dict[int, tuple[float, float]]) -> str:
    """Edges as SVG path data; an edge that goes on from the one before it continues its line. Voxel centres lie at half pixels."""
    words: list[str] = []
    last = None
    for child, parent in edges:
        if parent != last:
            words.append("M{:.1f} {:.1f}".format(*(v + 0.5 for v in position[parent])))
        words.append("L{:.1f} {:.1f}".format(*(v + 0.5 for v in position[child])))
        last = child
    return "".join(words)


# ------------------------------------------------------------------------------------------------------------------------- slices


def slices(image: Volume, labels: Volume, centre_zyx: tuple[int, int, int]) -> list[Cut]:
    """Three cuts through a voxel, each raw and with labels: along z, along y and along x.

    Classes are tinted, unknown is grey, what was not downloaded is hatched. The axial cuts are stretched to the proportions of tissue.
    """
    box = box_about(centre_zyx, image.shape, SLICE_PX)
    grey = as_grey(image.read(box), image)
    codes = labels.read(box)
    z, y, x = (c - low for c, (low, _) in zip(centre_zyx, box, strict=True))
    size_z, size_y, size_x = image.grid.voxel_size_zyx_um
    cuts = [
        ("through z", grey[z], codes[z], 1.0),
        ("through y", grey[:, y], codes[:, y], size_z / size_x),
        ("through x", grey[:, :, x], codes[:, :, x], size_z / size_y),
    ]
    return [_cut(name, pixels, of, stretch) for name, pixels, of, stretch in cuts]


def box_about(centre: tuple[int, int, int], shape: tuple[int, int, int], side: int) -> Window:
    """`side` voxels in each direction about a voxel, moved to lie inside the volume, cut where the volume is smaller."""
    sides = []
    for at, n in zip(centre, shape, strict=True):
        low = max(0, min(at - side // 2, n - side))
        sides.append((low, min(low + side, n)))
    z, y, x = sides
    return (z, y, x)


def _cut(name: str, pixels: Grey, codes: NDArray[np.unsignedinteger[Any]], stretch: float) -> Cut:
    rows = (np.arange(round(len(pixels) * stretch)) / stretch).astype(np.int64).clip(0, len(pixels) - 1)
    pixels, codes = pixels[rows], codes[rows]
    paper = hatched(pixels, pixels > 0)
    return Cut(name, paper, tinted(paper, codes))


def tinted(grey: Grey, codes: NDArray[np.unsignedinteger[Any]]) -> Colours:
    """A grey picture with its labels as translucent colours; codes that the semantic label does not have get the soma's."""
    table = np.tile(np.array(LABEL_COLOURS_RGB[Label.SOMA], np.float64), (256, 1))
    opacity = np.full(256, _OPACITY)
    for label, rgb in LABEL_COLOURS_RGB.items():
        table[int(label)] = rgb
    opacity[int(Label.BACKGROUND)] = 0.0
    opacity[int(Label.UNKNOWN)] = _UNKNOWN_OPACITY
    alpha = opacity[codes.astype(np.int64)][..., None]
    mixed: Colours = np.floor(grey[..., None] * (1 - alpha) + table[codes.astype(np.int64)] * alpha + 0.5).astype(np.uint8)
    return mixed


def centre_voxel(nodes: pd.DataFrame, shape_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """The voxel of the soma, or of the median node where there is no soma; within the volume."""
    soma = nodes[nodes["label"] == int(Label.SOMA)]
    at = (soma.sort_values("node_id").head(1) if len(soma) else nodes)[["z_vox", "y_vox", "x_vox"]].median().to_numpy()
    z, y, x = (int(min(max(round(float(v)), 0), n - 1)) for v, n in zip(at, shape_zyx, strict=True))
    return (z, y, x)
