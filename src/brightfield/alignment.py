"""Is the skeleton on its stain? Per stretch, and for the cell against every frame it could have been mistaken for.

A stretch is moved sideways by s and axially by dz; its score is the mean absorbance inside the tube along the moved path. It is ON where
the best score near the given position beats random placements of the same path nearby, most samples are darker than the tissue beside
them, and the contrast d' is high enough. Sums are over whole numbers and stored values are rounded, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, nan, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.absorbance import NO_DATA, Pixels
from brightfield.schema import Grade, Label, Verdict
from brightfield.skeleton import ROOT, Skeleton
from brightfield.space import Grid, Window

type Reals = NDArray[np.float64]

SAMPLE_UM = 0.5
LEAST_PATH_UM = 10.0
"""A shorter stretch is judged together with the path that leads to it: too few samples prove nothing."""

SEARCH_UM = 5.0
N_PLACEMENTS = 60
_P_MAX = 0.05
_LEAST_PLACEMENTS = 19
"""Fewer random placements cannot reach p = 0.05; where the arbor leaves no room for them the other gates decide."""

_TUBE = np.array([-0.5, 0.0, 0.5])
_SD_FLOOR = 2.0
_SLOPE = 1.25
"""Stain that is so much darker just beyond the gates is the neurite itself, and the gates only hold its slope."""

_MEASURES = ("d_prime", "shift_um", "shift_z_um", "coverage", "p_value")
_DARK = 300  # steps of absorbance.UNIT: dendrites in focus reach it, somata exceed it many times
_MARGIN_UM = 10.0
_TRANSFORM_STRETCHES = 64
_SHARES = ((Grade.A, 0.90), (Grade.B, 0.75), (Grade.C, 0.50))


@dataclass(frozen=True, slots=True)
class Gates:
    """What counts as aligned; the options of the `align` configuration group and the drawn radius floor."""

    d_prime_min: float = 3.0
    max_shift_um: float = 0.5
    alongside_um: float = 3.0
    max_shift_z_um: float = 1.0
    coverage_min: float = 0.5
    stretch_um: float = 30.0
    ring_um: tuple[float, float] = (1.4, 1.7)
    r_min_um: float = 0.23


@dataclass(frozen=True, slots=True)
class Alignment:
    """Rows of `schema.ALIGNMENT` and the one row of `schema.ALIGNMENT_CELLS`, ready for a data frame."""

    stretches: list[dict[str, Any]]
    cell: dict[str, Any]


def align_cell(specimen_id: int, skeleton: Skeleton, pixels: Pixels, gates: Gates) -> Alignment:
    """Measure one cell. skeleton: in the frame of the stack. Reads the stack window by window, one stretch at a time."""
    pixels = pixels.holding()
    random = np.random.Generator(np.random.PCG64(specimen_id))
    rigid = _RigidSearch(pixels.grid)
    rows, contrasts = [], []
    for path in _paths(skeleton, gates):
        contrast, row = _measure(path, skeleton, pixels, gates, rigid, random)
        rows.append({"specimen_id": specimen_id, **row})
        contrasts.append(contrast)
    return Alignment(rows, {"specimen_id": specimen_id, **_cell_row(skeleton, pixels, gates, rigid, rows, contrasts)})


# ---------------------------------------------------------------------------------------------------------------------------- paths


@dataclass(frozen=True, slots=True)
class _Path:
    """A stretch as samples every `SAMPLE_UM`: position (m, 3) um, sideways unit vector (m, 2) in (y, x), tube radius (m,) um.

    nodes: indices of the nodes whose edges it follows.
    """

    number: int
    label: int
    nodes: list[int]
    length_um: float
    position: Reals
    normal: Reals
    radius: Reals

    def moved(self, position: Reals, normal: Reals) -> _Path:
        return _Path(self.number, self.label, self.nodes, self.length_um, position, normal, self.radius)


def _paths(skeleton: Skeleton, gates: Gates) -> Iterator[_Path]:
    number = skeleton.stretches(gates.stretch_um)
    order = np.lexsort((skeleton.node_id, skeleton.depth, number))
    order = order[number[order] >= 0]
    for nodes in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        if len(nodes):
            yield _path(skeleton, nodes, int(number[nodes[0]]), gates.r_min_um)


def _path(skeleton: Skeleton, nodes: NDArray[np.int64], number: int, r_min_um: float) -> _Path:
    length_um = float(np.add.accumulate(skeleton.edge_length_um[nodes])[-1])
    chain = _lengthened(skeleton, nodes)
    corner = skeleton.position_zyx_um[chain]
    radius = np.maximum(skeleton.radius_um[chain], r_min_um)
    radius[0] = min(radius[0], radius[1])  # a neurite does not begin as wide as the soma
    arc = np.append(0.0, np.add.accumulate(skeleton.edge_length_um[chain[1:]]))
    m = max(1, round(arc[-1] / SAMPLE_UM))
    at = (np.arange(m) + 0.5) * (arc[-1] / m)
    position = _along(arc, corner, at)
    ahead = _along(arc, corner, np.minimum(at + 1.0, arc[-1])) - _along(arc, corner, np.maximum(at - 1.0, 0.0))
    outside = _outside_soma(skeleton, position)
    label = int(skeleton.label[nodes[0]])
    return _Path(number, label, chain[1:], length_um, position[outside], _sideways(ahead)[outside], np.interp(at, arc, radius)[outside])


def _lengthened(skeleton: Skeleton, nodes: NDArray[np.int64]) -> list[int]:
    """The nodes of a stretch from its first edge's parent on; with what leads to it, or follows, where it is shorter than LEAST_PATH_UM."""
    chain = [int(skeleton.parent[nodes[0]]), *nodes.tolist()]
    visible_um = float(np.add.accumulate(skeleton.edge_length_um[chain[1:]])[-1])
    if skeleton.parent[chain[0]] == ROOT:
        visible_um -= float(skeleton.radius_um[chain[0]])
    while visible_um < LEAST_PATH_UM and skeleton.parent[chain[0]] != ROOT:
        visible_um += float(skeleton.edge_length_um[chain[0]])
        chain.insert(0, int(skeleton.parent[chain[0]]))
    while visible_um < LEAST_PATH_UM and skeleton.n_children[chain[-1]]:
        chain.append(skeleton.first_child[chain[-1]])
        visible_um += float(skeleton.edge_length_um[chain[-1]])
    return chain


def _along(arc: Reals, corner: Reals, at: Reals) -> Reals:
    return np.stack([np.interp(at, arc, corner[:, axis]) for axis in range(3)], axis=1)


def _sideways(ahead: Reals) -> Reals:
    """In-plane unit vectors across the path, (y, x); where the path runs along z, the last one before."""
    normal = np.empty((len(ahead), 2))
    last = (1.0, 0.0)
    for i, (z, y, x) in enumerate(ahead.tolist()):
        flat = sqrt(y * y + x * x)
        if flat > 0.3 * abs(z) and flat > 0:
            last = (x / flat, -y / flat)
        normal[i] = last
    return normal


def _outside_soma(skeleton: Skeleton, position: Reals) -> NDArray[np.bool_]:
    if skeleton.soma is None:
        return np.ones(len(position), np.bool_)
    away = position - skeleton.position_zyx_um[skeleton.soma]
    inside: NDArray[np.bool_] = (away * away).sum(axis=1) <= skeleton.radius_um[skeleton.soma] ** 2
    return ~inside


# ---------------------------------------------------------------------------------------------------------------------- one stretch


@dataclass(frozen=True, slots=True)
class _Contrast:
    """Absorbance inside the tube and beside it, (m,) and (m, k) in `UNIT` steps; NaN inside where there are no pixels."""

    inside: Reals
    ring: NDArray[np.int16]

    def ring_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the ring without what is far darker than most of it: the neighbours' stain."""
        values = np.sort(self.ring[self.ring != NO_DATA]).astype(np.int64)
        if len(values) < 4:
            return nan, nan
        middle = int(values[len(values) // 2])
        spread = int(np.sort(np.abs(values - middle))[len(values) // 2])
        kept = values[values <= middle + max(5 * spread, 20)]
        n, total, squares = len(kept), int(kept.sum()), int((kept * kept).sum())
        return total / n, max(sqrt(max(n * squares - total * total, 0)) / n, _SD_FLOOR)

    @property
    def d_prime(self) -> float:
        """(mean inside - mean of the ring) / standard deviation of the ring."""
        mean, sd = self.ring_moments()
        inside = self.inside[~np.isnan(self.inside)]
        return nan if not len(inside) else (_mean(inside) - mean) / sd

    @property
    def coverage(self) -> float:
        """Share of samples with pixels that are darker than the ring by more than its standard deviation."""
        mean, sd = self.ring_moments()
        inside = self.inside[~np.isnan(self.inside)]
        return nan if not len(inside) else np.count_nonzero(inside > mean + sd) / len(inside)

    @property
    def n_samples(self) -> int:
        """Samples with pixels."""
        return int(np.count_nonzero(~np.isnan(self.inside)))


def _mean(values: Reals) -> float:
    return float(np.add.accumulate(values)[-1]) / len(values)  # one after the other: numpy's own sum may group by vector width


class _View:
    """The absorbance around one path, and how paths are laid over it.

    tube: what is under the path. beside: the same without the other traced tubes, so that a neighbour's stain is not taken for tissue.
    """

    def __init__(self, tube: NDArray[np.int16], beside: NDArray[np.int16], grid: Grid, gates: Gates) -> None:
        self.tube, self.beside, self.grid, self.gates = tube, beside, grid, gates
        self._size = np.asarray(grid.voxel_size_zyx_um)

    @classmethod
    def of(cls, pixels: Pixels, window: Window, gates: Gates, skeleton: Skeleton | None = None, own: Sequence[int] = ()) -> _View:
        """What a window of the stack shows; beside, the edges of `skeleton` are left out, except those of the nodes `own`."""
        tube, grid = pixels.absorbance(window), pixels.grid.crop(window)
        beside = tube if skeleton is None else _without(tube, grid, skeleton, 0.7, 1.4, own)
        return cls(tube, beside, grid, gates)

    def elsewhere(self, skeleton: Skeleton) -> _View:
        """The same window without the traced tubes and their blur: what random placements are laid over."""
        values = _without(self.tube, self.grid, skeleton, 1.5, 3.0)
        return _View(values, values, self.grid, self.gates)

    @property
    def lattice(self) -> tuple[Reals, Reals]:
        """The shifts that are tried, sideways and axial, um: half a voxel apart, or a voxel where voxels are fine."""
        size_z, size_y, size_x = self._size.tolist()
        step_um = min(max(size_y, size_x), 0.23)
        return _symmetric(self.gates.alongside_um, step_um), _symmetric(1.5 * self.gates.max_shift_z_um, max(0.28, size_z / 2))

    def scores(self, path: _Path, cap: float = np.inf) -> Reals:
        """Mean absorbance in the tube above that beside it, (n_s, n_dz), for every shift; NaN where too few samples have pixels.

        Beside is subtracted because the halo of a soma out of focus is darker than a thin neurite in focus. No sample counts for more
        than `cap`.
        """
        s_um, dz_um = self.lattice
        step_um = float(s_um[-1] - s_um[-2])
        wall = path.radius - self.gates.r_min_um
        ring = np.rint((wall + sum(self.gates.ring_um) / 2) / step_um).astype(np.int64)
        half = np.rint(0.5 * path.radius / step_um).astype(np.int64)
        reach = len(s_um) // 2 + int(ring.max())
        offsets_um = np.arange(-reach, reach + 1) * step_um
        position, across, dz = self.grid.to_voxel(path.position), path.normal / self._size[1:], dz_um / self._size[0]
        tube = _straight_kernel(self.tube, position, across, offsets_um, dz)
        beside = tube if self.beside is self.tube else _straight_kernel(self.beside, position, across, offsets_um, dz)
        total, count = _ridge_kernel(tube, beside, half, ring, len(s_um), int(min(6 * cap, 2**40)))
        return np.where(count >= 0.25 * len(position), total / np.maximum(6 * count, 1), nan)

    def contrast(self, path: _Path, s_um: float, dz_um: float) -> _Contrast:
        """Inside and ring with the path shifted."""
        wall = np.maximum(path.radius - self.gates.r_min_um, 0.0)[:, None]
        ring = wall + np.linspace(*self.gates.ring_um, 3)
        across = path.normal / self._size[1:]
        position = self.grid.to_voxel(path.position)
        position[:, 0] += dz_um / self._size[0]
        position[:, 1:] += s_um * across
        inside = _cross_kernel(self.tube, position, across, path.radius[:, None] * _TUBE)
        known = (inside != NO_DATA).all(axis=1)
        mean = np.where(known, inside.astype(np.int64).sum(axis=1) / len(_TUBE), nan)
        return _Contrast(mean, _cross_kernel(self.beside, position, across, np.hstack([-ring, ring])))


def _symmetric(reach: float, step: float) -> Reals:
    n = floor(reach / step + 1e-9)
    return np.arange(-n, n + 1, dtype=np.float64) * step


def _without(
    values: NDArray[np.int16], grid: Grid, skeleton: Skeleton, lateral_um: float, axial_um: float, own: Sequence[int] = ()
) -> NDArray[np.int16]:
    """A copy that has NO_DATA within radius + margin of every edge but those of the nodes `own`; twice the margin around the soma."""
    position = grid.to_voxel(skeleton.position_zyx_um)
    size = np.asarray(grid.voxel_size_zyx_um)
    child = np.setdiff1d(np.flatnonzero(skeleton.parent != ROOT), own)
    reach = np.array([axial_um, lateral_um, lateral_um]) / size + skeleton.radius_um[child, None] / size
    low = np.minimum(position[child], position[skeleton.parent[child]]) - reach
    high = np.maximum(position[child], position[skeleton.parent[child]]) + reach
    child = child[((high > 0) & (low < values.shape)).all(axis=1)]
    masked = values.copy()
    _mask_kernel(masked, position[child], position[skeleton.parent[child]], skeleton.radius_um[child], size, lateral_um, axial_um)
    if skeleton.soma is not None:
        soma = position[[skeleton.soma]]
        _mask_kernel(masked, soma, soma, skeleton.radius_um[[skeleton.soma]], size, 2 * lateral_um, 2 * axial_um)
    return masked


def _measure(
    path: _Path, skeleton: Skeleton, pixels: Pixels, gates: Gates, rigid: _RigidSearch, random: np.random.Generator
) -> tuple[_Contrast, dict[str, Any]]:
    """The contrast at the given position, and the stretch's row without the specimen."""
    window = _window(pixels, path.position, _MARGIN_UM)
    draws = random.random((N_PLACEMENTS, 5))  # always drawn, so that a stretch without pixels changes no other's placements
    row: dict[str, Any] = {"stretch": path.number, "label": path.label, "length_um": round(path.length_um, 4), "n_samples": 0}
    here = _Contrast(np.empty(0), np.empty((0, 6), np.int16))
    if not _is_empty(window):
        view = _View.of(pixels, window, gates, skeleton, path.nodes)
        here = view.contrast(path, 0.0, 0.0)
        rigid.add(view, path)
        row["n_samples"] = here.n_samples
    if here.n_samples < max(1.0, 0.5 * len(path.position)):
        return here, {**row, **dict.fromkeys(_MEASURES), "verdict": Verdict.NO_DATA}
    return here, {**row, **_judge(path, view, view.elsewhere(skeleton), draws, gates)}


def _judge(path: _Path, view: _View, elsewhere: _View, draws: Reals, gates: Gates) -> dict[str, Any]:
    """Peak, significance and verdict: first near the given position, then as far as ALONGSIDE reaches."""
    scores = view.scores(path)
    s_um, dz_um = view.lattice
    axial = np.abs(dz_um) <= gates.max_shift_z_um + 0.6
    near = (np.abs(s_um) <= gates.max_shift_um + 0.25)[:, None] & axial
    around = _highest(scores[(np.abs(s_um) <= gates.max_shift_um + 1.0)[:, None] & axial])
    found: dict[str, Any] = dict.fromkeys(_MEASURES)
    for verdict, region in ((Verdict.ON, near), (Verdict.ALONGSIDE, np.ones_like(near))):
        searched = np.where(region & ~np.isnan(scores), scores, -np.inf)
        i, j = np.unravel_index(int(np.argmax(searched)), searched.shape)
        if searched[i, j] == -np.inf:
            continue
        shift_um, shift_z_um = float(s_um[i]), float(dz_um[j])
        contrast = view.contrast(path, shift_um, shift_z_um)
        p_value = _significance(path, view, elsewhere, draws, region, float(searched[i, j]))
        values = (contrast.d_prime, shift_um, shift_z_um, contrast.coverage, p_value)
        found = dict(zip(_MEASURES, map(_rounded, values), strict=True))
        within = abs(shift_um) <= gates.max_shift_um and abs(shift_z_um) <= gates.max_shift_z_um
        inside_gates = verdict == Verdict.ALONGSIDE or (within and around <= _SLOPE * searched[i, j])
        stained = contrast.d_prime >= gates.d_prime_min and contrast.coverage >= gates.coverage_min
        if inside_gates and stained and not p_value > _P_MAX:
            return {**found, "verdict": verdict}
    return {**found, "verdict": Verdict.NOT_ON}


def _placed(path: _Path, draw: Reals) -> _Path:
    """A random rigid placement nearby: turned by up to 30 degrees, perhaps reversed, moved by 3.5 to 6.5 um in the plane and 2 um in z."""
    turn, flip, direction, reach, axial = draw.tolist()
    cos, sin = _direction((turn - 0.5) / 6)
    if flip < 0.5:
        cos, sin = -cos, -sin
    away_y, away_x = _direction(direction)
    centre = path.position[len(path.position) // 2]
    offset = path.position - centre
    y, x = offset[:, 1], offset[:, 2]
    reach_um = 3.5 + 3.0 * reach
    position = np.stack(
        [offset[:, 0] + 4.0 * (axial - 0.5), cos * y - sin * x + reach_um * away_y, sin * y + cos * x + reach_um * away_x], axis=1
    )
    normal = np.stack([cos * path.normal[:, 0] - sin * path.normal[:, 1], sin * path.normal[:, 0] + cos * path.normal[:, 1]], axis=1)
    return path.moved(position + centre, normal)


def _direction(turns: float) -> tuple[float, float]:
    """Cosine and sine of a share of a full turn, rounded so that they are the same everywhere."""
    return round(float(np.cos(2 * np.pi * turns)), 9), round(float(np.sin(2 * np.pi * turns)), 9)


def _significance(path: _Path, view: _View, elsewhere: _View, draws: Reals, region: NDArray[np.bool_], score: float) -> float:
    """Share of placements, this one among them, whose best score in `region` is as high; NaN without room for enough.

    No sample counts for more than twice the path's own score: a speck of debris, dark as it is, is no path.
    """
    cap = 2 * max(score, 0.0) + 1
    best = [_highest(elsewhere.scores(_placed(path, draw), cap)[region]) for draw in draws]
    own = _highest(view.scores(path, cap)[region])
    n = sum(value > -np.inf for value in best)
    return nan if n < _LEAST_PLACEMENTS else (1 + sum(value >= own for value in best)) / (1 + n)


def _highest(scores: Reals) -> float:
    return float(np.where(np.isnan(scores), -np.inf, scores).max())


def _window(pixels: Pixels, position: Reals, margin_um: float) -> Window:
    if not len(position):
        return ((0, 0), (0, 0), (0, 0))
    z_margin = min(margin_um, SEARCH_UM + 1.0)
    margin = np.array([z_margin, margin_um, margin_um])
    low = pixels.grid.to_index(position.min(axis=0) - margin).tolist()
    high = (pixels.grid.to_index(position.max(axis=0) + margin) + 1).tolist()
    return pixels.clipped(((low[0], high[0]), (low[1], high[1]), (low[2], high[2])))


def _is_empty(window: Window) -> bool:
    return any(low >= high for low, high in window)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


# ------------------------------------------------------------------------------------------------------------------------- the cell


class _RigidSearch:
    """Mean absorbance on the axis for every rigid shift up to `reach_um`, summed path by path; capped, or all paths would seek the soma."""

    def __init__(self, grid: Grid, reach_um: float = SEARCH_UM) -> None:
        size = grid.voxel_size_zyx_um
        steps = [max(1, floor(0.25 / length)) for length in size]
        self._size = np.asarray(size)
        self._axes = [np.arange(-floor(reach_um / (d * h)), floor(reach_um / (d * h)) + 1) * h for d, h in zip(size, steps, strict=True)]
        shape = tuple(len(axis) for axis in self._axes)
        self._total = np.zeros(shape, np.int64)
        self._count = np.zeros(shape, np.int64)
        self._n_samples = 0

    def add(self, view: _View, path: _Path) -> None:
        """Count in every second sample of a path."""
        position = view.grid.to_voxel(path.position[::2])
        self._n_samples += len(position)
        z_steps, y_steps, x_steps = self._axes
        _rigid_kernel(view.tube, position, z_steps, y_steps, x_steps, _DARK, self._total, self._count)

    def means(self) -> Reals:
        """Mean absorbance by shift (z, y, x); -inf where under a quarter of the samples have pixels."""
        known = self._count >= max(1.0, 0.25 * self._n_samples)
        return np.where(known, self._total / np.maximum(self._count, 1), -np.inf)

    def best(self) -> tuple[Reals, float, float]:
        """The best shift (z, y, x) um, between voxels by a parabola; how far its mean and the given position's are above most shifts."""
        means = self.means()
        peak = np.unravel_index(int(np.argmax(means)), means.shape)
        if means[peak] == -np.inf:
            return np.full(3, nan), nan, nan
        floor_level = float(np.sort(means[means > -np.inf])[np.count_nonzero(means > -np.inf) // 2])
        shift = np.empty(3)
        lines = (means[:, peak[1], peak[2]], means[peak[0], :, peak[2]], means[peak[0], peak[1], :])
        for axis, (steps, line) in enumerate(zip(self._axes, lines, strict=True)):
            width = float(steps[1] - steps[0]) if len(steps) > 1 else 0.0
            shift[axis] = (steps[peak[axis]] + width * _vertex(line, int(peak[axis]))) * self._size[axis]
        given = means[tuple(len(steps) // 2 for steps in self._axes)]
        return shift, float(means[peak]) - floor_level, float(given) - floor_level


def _vertex(line: Reals, peak: int) -> float:
    """Where between -0.5 and 0.5 steps from its highest point the parabola through three points has its top."""
    if not 0 < peak < len(line) - 1 or np.isinf(line[[peak - 1, peak + 1]]).any():
        return 0.0
    left, middle, right = line[peak - 1 : peak + 2].tolist()
    bend = left - 2 * middle + right
    return 0.0 if bend == 0 else 0.5 * (left - right) / bend


def _pooled(contrasts: Sequence[_Contrast]) -> _Contrast:
    if not contrasts:
        return _Contrast(np.empty(0), np.empty((0, 6), np.int16))
    return _Contrast(np.concatenate([c.inside for c in contrasts]), np.concatenate([c.ring for c in contrasts]))


def _cell_row(
    skeleton: Skeleton, pixels: Pixels, gates: Gates, rigid: _RigidSearch, rows: list[dict[str, Any]], contrasts: list[_Contrast]
) -> dict[str, Any]:
    dendrite, axon = _is_dendrite(rows), _is_axon(rows)
    everything = _pooled(contrasts)
    _, sd = everything.ring_moments()
    shift_um, shifted, given = rigid.best()
    fit = _best_frame(_transform_scores(skeleton, pixels, gates, sd), shift_um, shifted / sd, given / sd, pixels.grid, gates)
    share = _share_on(rows)
    reason = _rejection(rows, fit, shift_um, share)
    return {
        "d_prime": _rounded(everything.d_prime),
        "d_prime_dendrite": _rounded(_pooled([c for c, chosen in zip(contrasts, dendrite, strict=True) if chosen]).d_prime),
        "d_prime_axon": _rounded(_pooled([c for c, chosen in zip(contrasts, axon, strict=True) if chosen]).d_prime),
        "best_transform": fit.name,
        "identity_score": _rounded(fit.identity),
        "best_score": _rounded(fit.score),
        **{f"shift_{axis}_um": _rounded(value) for axis, value in zip("zyx", shift_um.tolist(), strict=True)},
        "share_on": _rounded(share),
        "share_on_dendrite": _rounded(_share_on(_only(rows, dendrite))),
        "share_on_axon": _rounded(_share_on(_only(rows, axon))),
        "grade": Grade.REJECTED if reason else _grade(share),
        "grade_dendrite": _part_grade(rows, dendrite, reason),
        "grade_axon": _part_grade(rows, axon, reason),
        "reason": reason,
    }


def _is_dendrite(rows: list[dict[str, Any]]) -> list[bool]:
    return [row["label"] in (Label.BASAL_DENDRITE, Label.APICAL_DENDRITE) for row in rows]


def _is_axon(rows: list[dict[str, Any]]) -> list[bool]:
    return [row["label"] == Label.AXON for row in rows]


def _only(rows: list[dict[str, Any]], chosen: list[bool]) -> list[dict[str, Any]]:
    return [row for row, keep in zip(rows, chosen, strict=True) if keep]


def _share_on(rows: list[dict[str, Any]]) -> float:
    """Share of the path length with pixels that is ON."""
    with_data = sum(row["length_um"] for row in rows if row["verdict"] != Verdict.NO_DATA)
    on = sum(row["length_um"] for row in rows if row["verdict"] == Verdict.ON)
    return on / with_data if with_data else nan


def _grade(share: float) -> Grade:
    return next((grade for grade, least in _SHARES if share >= least), Grade.REJECTED)


def _part_grade(rows: list[dict[str, Any]], chosen: list[bool], reason: str | None) -> Grade | None:
    if not any(chosen):
        return None
    return Grade.REJECTED if reason and "ON" not in reason else _grade(_share_on(_only(rows, chosen)))


# --------------------------------------------------------------------------------------------------------- the frame, right or wrong

_TRANSFORMS = ("identity", "flip x", "flip y", "flip z", "transpose xy", "z scale 0.5", "z scale 0.8", "z scale 1.25", "z scale 2")


def _transformed(path: _Path, name: str, grid: Grid) -> _Path:
    position, normal = path.position.copy(), path.normal.copy()
    axis = {"flip z": 0, "flip y": 1, "flip x": 2}.get(name)
    if axis is not None:
        low, high = grid.to_um([0, 0, 0])[axis], grid.to_um(np.subtract(grid.shape_zyx, 1))[axis]
        position[:, axis] = low + high - position[:, axis]
        if axis:
            normal[:, 0] *= -1  # mirrored: (y, -x) and (-y, x) lie across the same line
    elif name == "transpose xy":
        position, normal = position[:, [0, 2, 1]], normal[:, ::-1].copy()
    elif name.startswith("z scale"):
        position[:, 0] *= float(name.split()[-1])
    return path.moved(position, normal)


def _transform_scores(skeleton: Skeleton, pixels: Pixels, gates: Gates, sd: float) -> dict[str, float]:
    """How well every transform fits for which pixels were downloaded, over at most 64 stretches spread over the cell.

    The score is the capped mean absorbance in the tube above that beside it, each stretch at its best shift of up to 1 um, in `sd`.
    """
    paths = [path for path in _paths(skeleton, gates) if len(path.position)]
    chosen = paths[:: ceil(len(paths) / _TRANSFORM_STRETCHES) or 1]
    scores = {}
    for name in _TRANSFORMS:
        total, n = 0.0, 0
        for path in chosen:
            moved = _transformed(path, name, pixels.grid)
            window = _window(pixels, moved.position, 4.0)
            if not _is_empty(window):
                ridge = _nearby(_View.of(pixels, window, gates), moved)
                known = ridge > -np.inf
                total, n = total + (ridge * len(path.position) if known else 0.0), n + known * len(path.position)
        if n >= 0.25 * sum(len(path.position) for path in chosen) and n:
            scores[name] = total / n / sd
    return scores


def _nearby(view: _View, path: _Path) -> float:
    s_um, dz_um = view.lattice
    return _highest(view.scores(path, _DARK)[np.ix_(np.abs(s_um) <= 1.0, np.abs(dz_um) <= 1.0)])


@dataclass(frozen=True, slots=True)
class _Fit:
    """The frame that fits best, and how much better than the given one."""

    name: str
    score: float
    identity: float


def _best_frame(scores: dict[str, float], shift_um: Reals, shifted: float, given: float, grid: Grid, gates: Gates) -> _Fit:
    """Identity unless something else fits clearly better; a shift is compared in its own scale, means above those of most shifts."""
    identity = scores.get("identity", nan)
    fits = [_Fit(name, score, identity) for name, score in scores.items() if name != "identity"]
    if _beyond_gates(shift_um, grid, gates):
        fits.append(_Fit("shift", shifted, given))
    clear = [fit for fit in fits if fit.score >= 1.0 and not fit.score < 1.25 * fit.identity]
    return max(clear, key=lambda fit: fit.score, default=_Fit("identity", identity, identity))


def _beyond_gates(shift_um: Reals, grid: Grid, gates: Gates) -> bool:
    half_z, half_y, half_x = (length / 2 for length in grid.voxel_size_zyx_um)
    z, y, x = np.abs(shift_um).tolist()
    return bool(z > gates.max_shift_z_um + half_z or max(y - half_y, x - half_x) > gates.max_shift_um)


def _rejection(rows: list[dict[str, Any]], fit: _Fit, shift_um: Reals, share: float) -> str | None:
    """Why the cell must not be used, None where it may."""
    total = sum(row["length_um"] for row in rows)
    known = sum(row["length_um"] for row in rows if row["verdict"] != Verdict.NO_DATA)
    if known < 0.5 * total or not rows:
        return f"only {known:.0f} of {total:.0f} um of path have pixels"
    if fit.name != "identity":
        z, y, x = shift_um.tolist()
        name = f"a shift of z {z:+.1f}, y {y:+.1f}, x {x:+.1f} um" if fit.name == "shift" else fit.name
        return f"{name} fits better than the given position: {fit.score:.1f} against {fit.identity:.1f} standard deviations"
    if _grade(share) == Grade.REJECTED:
        return f"{100 * share:.0f} % of the path length is ON, {100 * _SHARES[-1][1]:.0f} % is the least for training"
    return None


# -------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _at(values, z, y, x):  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    """The voxel that holds a continuous position."""
    k, j, i = int(np.floor(z + 0.5)), int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    inside = 0 <= k < values.shape[0] and 0 <= j < values.shape[1] and 0 <= i < values.shape[2]
    return values[k, j, i] if inside else NO_DATA


@njit(cache=True, nogil=True)
def _straight_kernel(values, position, across, offsets_um, dz):  # type: ignore[no-untyped-def]
    """The volume along a path, straightened: (n_dz, m, n_offsets); `across` is one um sideways in voxels."""
    out = np.empty((len(dz), len(position), len(offsets_um)), np.int16)
    for j in range(len(dz)):
        for m in range(len(position)):
            for i in range(len(offsets_um)):
                y = position[m, 1] + offsets_um[i] * across[m, 0]
                x = position[m, 2] + offsets_um[i] * across[m, 1]
                out[j, m, i] = _at(values, position[m, 0] + dz[j], y, x)
    return out


@njit(cache=True, nogil=True)
def _ridge_kernel(tube, beside, half, ring, n_s, cap):  # type: ignore[no-untyped-def]
    """For every shift, the sum over samples of 6 x (mean in the tube - mean beside it), and how many samples have all their voxels.

    A sample with only one side is left out: the slope of a halo would pass for a ridge.
    """
    n_dz, n, n_offsets = tube.shape
    total, count = np.zeros((n_s, n_dz), np.int64), np.zeros((n_s, n_dz), np.int64)
    first = n_offsets // 2 - n_s // 2
    for j in range(n_dz):
        for m in range(n):
            for i in range(n_s):
                at = first + i
                left, right = beside[j, m, at - ring[m]], beside[j, m, at + ring[m]]
                low, axis, high = tube[j, m, at - half[m]], tube[j, m, at], tube[j, m, at + half[m]]
                if min(left, right, low, axis, high) != NO_DATA:
                    total[i, j] += min(2 * (np.int64(low) + axis + high) - 3 * (np.int64(left) + right), cap)
                    count[i, j] += 1
    return total, count


@njit(cache=True, nogil=True)
def _cross_kernel(values, position, step, across_um):  # type: ignore[no-untyped-def]
    """The voxels at the given distances across every sample, (m, k)."""
    out = np.empty(across_um.shape, np.int16)
    for m in range(len(position)):
        for k in range(across_um.shape[1]):
            across = across_um[m, k]
            out[m, k] = _at(values, position[m, 0], position[m, 1] + across * step[m, 0], position[m, 2] + across * step[m, 1])
    return out


@njit(cache=True, nogil=True)
def _rigid_kernel(values, position, z_steps, y_steps, x_steps, cap, total, count):  # type: ignore[no-untyped-def]
    """Add the voxels at every sample to the sums of every shift by whole voxels."""
    n_z, n_y, n_x = values.shape
    for m in range(len(position)):
        z0 = int(np.floor(position[m, 0] + 0.5))
        y0 = int(np.floor(position[m, 1] + 0.5))
        x0 = int(np.floor(position[m, 2] + 0.5))
        for a in range(len(z_steps)):
            z = z0 + z_steps[a]
            if z < 0 or z >= n_z:
                continue
            for b in range(len(y_steps)):
                y = y0 + y_steps[b]
                if y < 0 or y >= n_y:
                    continue
                for c in range(len(x_steps)):
                    x = x0 + x_steps[c]
                    if 0 <= x < n_x and values[z, y, x] != NO_DATA:
                        total[a, b, c] += min(values[z, y, x], cap)
                        count[a, b, c] += 1


@njit(cache=True, nogil=True)
def _mask_kernel(values, start, end, radius_um, size_um, lateral_um, axial_um):  # type: ignore[no-untyped-def]
    """Forget the voxels within radius + margin of every edge; positions in voxels of the window."""
    shape = values.shape
    for e in range(len(start)):
        reach_z = (radius_um[e] + axial_um) / size_um[0]
        reach_y, reach_x = (radius_um[e] + lateral_um) / size_um[1], (radius_um[e] + lateral_um) / size_um[2]
        span = 0.0
        for axis in range(3):
            span += ((end[e, axis] - start[e, axis]) * size_um[axis]) ** 2
        n = int(np.ceil(np.sqrt(span) / 0.5)) + 1
        for k in range(n):
            share = k / max(n - 1, 1)
            z = start[e, 0] + share * (end[e, 0] - start[e, 0])
            y = start[e, 1] + share * (end[e, 1] - start[e, 1])
            x = start[e, 2] + share * (end[e, 2] - start[e, 2])
            for i in range(max(int(np.ceil(z - reach_z)), 0), min(int(np.floor(z + reach_z)) + 1, shape[0])):
                for j in range(max(int(np.ceil(y - reach_y)), 0), min(int(np.floor(y + reach_y)) + 1, shape[1])):
                    rest = 1.0 - ((i - z) / reach_z) ** 2 - ((j - y) / reach_y) ** 2
                    if rest > 0.0:
                        half = np.sqrt(rest) * reach_x
                        values[i, j, max(int(np.ceil(x - half)), 0) : max(min(int(np.floor(x + half)) + 1, shape[2]), 0)] = NO_DATA
