"""Stain that the traced skeleton does not explain: thin, long, and darker than the noise (`schema.Reason.UNEXPLAINED`).

The predicted absorbance is taken from the one that is seen. What is left is searched for ridges: darker in the fine band of `bands.py`
than noise and than a share of what was predicted, and darker there than in the coarse band, so that blur does not count. Ridges near
each other are one object; an object that is long enough, and somewhere dark beyond doubt, is a neurite that nobody traced, a short one is
debris and stays background.

Planes are independent of each other and objects are put together from all of them: chunks and workers change nothing.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from brightfield.raster.runs import in_row_order, union
from brightfield.stages.rasterize.bands import NOISE_PX, Bands, noise_of

if TYPE_CHECKING:
    from brightfield.core.space import Grid, Triple
    from brightfield.raster.runs import Runs
    from brightfield.stages.rasterize.predicted import Predicted, Shown

_FAINT, _CLEAR, _SURE = 1, 2, 3
_SLENDER = 4.0
"""Least ratio of second moments along and across: 2 for lengths."""
_BLUR_DEPTH_UM = 3.0
_BORDER_NOISE, _BORDER_PX = 1.6, 5
"""So near a border, where a band has fewer pixels to average, noise is so much larger."""
_FAINT_WIDTH = 1.3
"""What continues a ridge may be wider: the fine band so many times must exceed the coarse one (a profile of 1.3 um; 1.1 of the ridge)."""
_PARTLY = 0.12
"""How much of it must be exceeded by what continues a ridge that exceeds it in full."""
_SOMA_REACH = 2.5
"""Radii of the soma beyond which it does not count how exactly its outline is known; within one less it does in full."""
_QUIET = 0.05
"""Predicted absorbance below which pixels tell what noise is."""


type Disc = tuple[float, float, float]
"""The soma in the plane: y and x in voxels, and its radius in um; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class RidgeRules:
    """What counts as unexplained stain.

    sigmas: a ridge is so many standard deviations of noise above it; faint_sigmas: what belongs to one where it continues; sure_sigmas:
    what an object must reach somewhere, for of all chains of noise few do. explained: the share of what is predicted in a band that a
    residual must exceed, for a model is never exact; beneath: the same of the whole prediction, blur and all. beside_um, above_um: how far
    off its place, in the plane and along z, stain may be predicted, and soma: the same in the plane near the soma, in its radii; what that
    changes a ridge must exceed too, but where it only continues one. length_um: the least length
    of an object; per_um: clear voxels of it per um. link_zyx_um: gaps that it may have; reach_zyx_um: those between pieces that are slender
    themselves and at least piece_um long, as specks are not. margin_um: how far around it, in the plane, it is unknown.
    """

    sigmas: float = 2.8
    faint_sigmas: float = 1.8
    sure_sigmas: float = 4.0
    explained: float = 0.015
    beneath: float = 0.005
    beside_um: float = 0.04
    above_um: float = 0.12
    soma: float = 0.15
    length_um: float = 5.0
    per_um: float = 1.0
    link_zyx_um: Triple = (1.2, 1.4, 1.4)
    reach_zyx_um: Triple = (1.2, 3.6, 3.6)
    piece_um: float = 2.5
    margin_um: float = 0.6


def ridges(predicted: Predicted, here: Shown, grey: NDArray[Any], plane: int, traced: Runs, soma: Disc, rules: RidgeRules) -> Runs:
    """The ridges of a plane as runs of 1 (faint), 2 (clear), 3 (sure). grey: its pixels. traced: runs of it that are not searched."""
    model, known = predicted.model(plane), predicted.bands(plane)
    found = Bands(here.bands.fine - known.fine, here.bands.coarse - known.coarse)
    searched = here.known.copy()
    _exclude(traced, searched)
    noise = noise_of(found.fine, here.known & (model < _QUIET))
    limits = np.array([rules.faint_sigmas, rules.sigmas, rules.sure_sigmas, rules.explained, rules.beneath])
    size = predicted.stain.grid.voxel_size_zyx_um
    off = np.array([rules.beside_um, rules.above_um, rules.soma, *soma, size[1], size[2]])
    pixels = (grey, here.known, searched)
    spans = _ridge_runs(tuple(found), tuple(known), predicted.slopes(plane).fine, model, pixels, noise, here.boxes, limits, off, plane)
    return in_row_order(spans)


def long_objects(found: Runs, grid: Grid, rules: RidgeRules) -> Runs:
    """Of the ridges of all planes those that belong to a long object."""
    if not len(found):
        return found
    starts = _row_starts(found, *grid.shape_zyx[:2])
    clear = found[:, 4] >= _CLEAR
    labels = _objects(found, starts, clear, grid, rules)
    are_long = _are_long(_Shape.of(found[clear], labels[clear], len(found), grid.voxel_size_zyx_um), rules)
    keep = clear & are_long[labels] & np.isin(labels, labels[found[:, 4] == _SURE])
    touching = _linked(found, starts, grid.shape_zyx[1], np.ones(3, np.int64), np.ones(len(found), np.bool_))
    kept: Runs = found[np.isin(touching, touching[keep]) & (keep | ~clear)]
    return kept


def _objects(found: Runs, starts: NDArray[np.int64], clear: NDArray[np.bool_], grid: Grid, rules: RidgeRules) -> NDArray[np.int64]:
    """The object of every clear run: what lies near each other, and slender pieces of it that lie a little farther apart."""
    n_y, size = grid.shape_zyx[1], grid.voxel_size_zyx_um
    near, far = (
        np.array([max(1, round(um / s)) for um, s in zip(link, size, strict=True)]) for link in (rules.link_zyx_um, rules.reach_zyx_um)
    )
    pieces = _linked(found, starts, n_y, near, clear)
    shape = _Shape.of(found[clear], pieces[clear], len(found), size)
    slender = shape.is_slender & (shape.flat_um >= rules.piece_um)
    reached = _linked(found, starts, n_y, far, clear & slender[pieces])
    links = coo_matrix((np.ones(len(found)), (pieces, pieces[reached])), shape=(len(found), len(found)))
    number: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return number[pieces]


def widened(found: Runs, grid: Grid, margin_um: float) -> Runs:
    """Runs of 1 within `margin_um` of the runs in their plane, and a plane above and below."""
    if not len(found):
        return found
    size_y, size_x = grid.voxel_size_zyx_um[1:]
    reach_y, n_z, n_y, n_x = int(margin_um / size_y + 0.5), *grid.shape_zyx
    parts = []
    for dz, dy in [(0, dy) for dy in range(-reach_y, reach_y + 1)] + [(-1, 0), (1, 0)]:
        reach_x = 0 if dz else int(np.sqrt(max(margin_um**2 - (dy * size_y) ** 2, 0.0)) / size_x + 0.5)
        parts.append(found + np.array([dz, dy, -reach_x, reach_x, 0], np.int32))
    spans = np.concatenate(parts)
    spans = spans[(spans[:, 0] >= 0) & (spans[:, 0] < n_z) & (spans[:, 1] >= 0) & (spans[:, 1] < n_y)]
    spans[:, 2:4] = np.clip(spans[:, 2:4], 0, n_x)
    return union(spans, 1)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of every object: voxels, length in the plane and depth along z, um, and whether it is long for its width.

    The length is that of a straight line with the same second moments.
    """

    n: NDArray[np.float64]
    flat_um: NDArray[np.float64]
    deep_um: NDArray[np.float64]
    is_slender: NDArray[np.bool_]

    @classmethod
    def of(cls, clear: Runs, labels: NDArray[np.int64], n_labels: int, size: Triple) -> _Shape:
        n, y, x, yy, xx, yx, low, high = _moments(clear, labels, n_labels).T
        n = np.maximum(n, 1)
        var_y, var_x = (yy / n - (y / n) ** 2) * size[1] ** 2, (xx / n - (x / n) ** 2) * size[2] ** 2
        mixed = (yx / n - y * x / n**2) * size[1] * size[2]
        root = np.sqrt(np.maximum((var_y - var_x) ** 2 / 4 + mixed**2, 0.0))
        major, minor = (var_y + var_x) / 2 + root, np.maximum((var_y + var_x) / 2 - root, 0.0)
        return cls(n, np.sqrt(12 * major), (high - low) * size[0], major >= _SLENDER * minor)


def _are_long(shape: _Shape, rules: RidgeRules) -> NDArray[np.bool_]:
    """(n,) whether objects are long in the plane, or along z beyond what blur makes of a speck; well filled, and no disc."""
    length = np.hypot(shape.flat_um, np.maximum(shape.deep_um - _BLUR_DEPTH_UM, 0.0))
    slender = shape.is_slender | (length >= 2 * rules.length_um)
    found: NDArray[np.bool_] = slender & (length >= rules.length_um) & (shape.n >= rules.per_um * length)
    return found


def _moments(clear: Runs, labels: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """(n, 8) per object, at the index of its first run: voxels, sums of y, x, yy, xx, yx, lowest plane and end of planes."""
    _, y, first, end, _ = clear.astype(np.float64).T
    count, middle = end - first, (first + end - 1) / 2
    squares = count * middle**2 + count * (count**2 - 1) / 12
    terms = [count, count * y, count * middle, count * y * y, squares, count * y * middle]
    out = np.zeros((n, 8))
    for column, term in enumerate(terms):
        out[:, column] = np.bincount(labels, term, n)
    out[:, 6] = 2**31
    np.minimum.at(out[:, 6], labels, clear[:, 0])
    np.maximum.at(out[:, 7], labels, clear[:, 0] + 1)
    return out


def _row_starts(found: Runs, n_z: int, n_y: int) -> NDArray[np.int64]:
    rows = found[:, 0].astype(np.int64) * n_y + found[:, 1]
    return np.searchsorted(rows, np.arange(n_z * n_y + 1)).astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _exclude(runs: Any, mask: Any) -> None:
    for i in range(len(runs)):
        mask[runs[i, 1], runs[i, 2] : runs[i, 3]] = False


@njit(cache=True, nogil=True)
def _is_at_border(pixels: Any, y: int, x: int) -> bool:
    """Whether a pixel lies near the border, or near what is not known."""
    (n_y, n_x), reach = pixels.shape, _BORDER_PX
    if y < reach or x < reach or y + reach >= n_y or x + reach >= n_x:
        return True
    return not (pixels[y - reach, x] and pixels[y + reach, x] and pixels[y, x - reach] and pixels[y, x + reach])


@njit(cache=True, nogil=True)
def _misplaced(fine: Any, slope_z: Any, y: int, x: int, off: Any) -> float:
    """How much a prediction changes where its stain lies a little elsewhere. off: see `ridges`."""
    n_y, n_x = fine.shape
    y0, y1, x0, x1 = max(y - 1, 0), min(y + 1, n_y - 1), max(x - 1, 0), min(x + 1, n_x - 1)
    slope_y = (fine[y1, x] - fine[y0, x]) / (max(y1 - y0, 1) * off[6])
    slope_x = (fine[y, x1] - fine[y, x0]) / (max(x1 - x0, 1) * off[7])
    beside_um = off[0]
    if off[5] > 0.0:
        away = np.sqrt(((y - off[3]) * off[6]) ** 2 + ((x - off[4]) * off[7]) ** 2) / off[5]
        beside_um += off[2] * off[5] * min(max(_SOMA_REACH - away, 0.0), 1.0)
    return beside_um * np.sqrt(slope_y * slope_y + slope_x * slope_x) + off[1] * abs(slope_z[y, x])


@njit(cache=True, nogil=True)
def _kind(over: float, misplaced: float, fine: float, coarse: float, sd: float, limits: Any) -> int:
    """Faint, clear, sure or 0 of a pixel whose residual exceeds what the prediction may be wrong by, its place aside, by `over`."""
    rest = over - misplaced
    if fine > coarse:
        if rest > limits[1] * sd:
            return _SURE if rest > limits[2] * sd else _CLEAR
        if over - _PARTLY * misplaced > limits[1] * sd:
            return _FAINT
    return _FAINT if rest > limits[0] * sd and _FAINT_WIDTH * fine > coarse else 0


@njit(cache=True, nogil=True)
def _ridge_runs(
    found: Any, predicted: Any, slope_z: Any, model: Any, pixels: Any, noise: Any, boxes: Any, limits: Any, off: Any, plane: int
) -> Any:
    """Runs of what exceeds the limits. found, predicted: fine and coarse band; pixels: grey values, which are known, which are searched."""
    (fine, coarse), (known_fine, known_coarse), (grey, known, searched) = found, predicted, pixels
    out = np.empty((1024, 5), np.int32)
    filled = 0
    for b in range(len(boxes)):
        for y in range(boxes[b, 0], boxes[b, 1]):
            if filled + boxes[b, 3] - boxes[b, 2] > len(out):
                out = np.concatenate((out, np.empty((len(out) + boxes[b, 3] - boxes[b, 2], 5), np.int32)))
            before = 0
            for x in range(boxes[b, 2], boxes[b, 3]):
                value = 0
                if searched[y, x] and fine[y, x] > 0.0:
                    sd, rounding = noise[y // NOISE_PX, x // NOISE_PX], 0.18 / max(grey[y, x], 1)
                    sd = np.sqrt(sd * sd + rounding * rounding) * (_BORDER_NOISE if _is_at_border(known, y, x) else 1.0)
                    inexact = limits[3] * max(abs(known_fine[y, x]), abs(known_coarse[y, x])) + limits[4] * model[y, x]
                    if fine[y, x] - inexact > limits[0] * sd:
                        misplaced = _misplaced(known_fine, slope_z, y, x, off)
                        value = _kind(fine[y, x] - inexact, misplaced, fine[y, x], coarse[y, x], sd, limits)
                if value > 0:
                    if value != before:
                        out[filled, 0], out[filled, 1], out[filled, 2], out[filled, 4] = plane, y, x, value
                        filled += 1
                    out[filled - 1, 3] = x + 1
                before = value
    return out[:filled].copy()


@njit(cache=True, nogil=True)
def _root(parent: Any, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _linked(runs: Any, starts: Any, n_y: int, reach: Any, taken: Any) -> Any:
    """The object of every run that is taken: its first run. Gaps of less than `reach` voxels are bridged."""
    parent = np.arange(len(runs))
    n_z = (len(starts) - 1) // n_y
    for i in range(len(runs)):
        z, y = runs[i, 0], runs[i, 1]
        for dz in range(reach[0] + 1 if taken[i] else 0):
            for dy in range(-reach[1] if dz else 0, reach[1] + 1):
                if z + dz >= n_z or not 0 <= y + dy < n_y:
                    continue
                row = (z + dz) * n_y + y + dy
                for j in range(starts[row], starts[row + 1]):
                    if runs[j, 2] - runs[i, 3] >= reach[2]:
                        break
                    if taken[j] and runs[i, 2] - runs[j, 3] < reach[2]:
                        one, other = _root(parent, i), _root(parent, j)
                        parent[max(one, other)] = min(one, other)
    for i in range(len(runs)):
        parent[i] = _root(parent, i)
    return parent
