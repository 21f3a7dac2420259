"""Alignment written out in numpy, stretch by stretch and shift by shift: slow, and the measure of the compiled kernels in `stages/align`.

Everything is found anew here but the frame it is measured in: the skeleton, the grid, the options and the verdicts' names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import floor, nan, sqrt
from typing import Any

import numpy as np

from brightfield.config.options import AlignConfig
from brightfield.core.codes import Verdict
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Grid

UNKNOWN = -32768
SEARCH_UM, MARGIN_UM = 5.0, 10.0
MEASURES = ("d_prime", "shift_um", "shift_z_um", "coverage", "p_value")


# ------------------------------------------------------------------------------------------------------------------------------- absorbance


def absorbance(volume, known, voxel_um):
    """Thousandths of -ln(I / B) of a whole stack; B is the brightest of nine medians, each of known pixels on a coarse pattern."""
    side = max(5, round(41 * 0.1144 / voxel_um))
    step, half, stride = side // 2, side // 2, max(2, side // 8)
    grey = np.arange(np.iinfo(volume.dtype).max + 1, dtype=np.float64)
    logs = np.round(np.log(np.maximum(grey, 0.5)) / 0.001).astype(np.int16)
    _, n_y, n_x = volume.shape
    rows, columns = np.arange(0, n_y, step), np.arange(0, n_x, step)
    near_row = ((np.arange(n_y) + step // 2) // step).clip(0, len(rows) - 1)
    near_column = ((np.arange(n_x) + step // 2) // step).clip(0, len(columns) - 1)
    out = np.full(volume.shape, UNKNOWN, np.int16)
    pattern = np.arange(-half, half + 1, stride)
    for plane, there, result in zip(volume, known, out, strict=True):
        medians = np.array([[_median(plane, there, y + pattern, x + pattern) for x in columns] for y in rows])
        padded = np.pad(medians, 1, constant_values=-1)
        brightest = np.max([padded[a : a + len(rows), b : b + len(columns)] for a in range(3) for b in range(3)], axis=0)
        light = brightest[np.ix_(near_row, near_column)]
        result[:] = np.where(there & (light >= 0), logs[light] - logs[plane], UNKNOWN)
    return out


def _median(plane, known, rows, columns):
    inside = np.ix_(rows[(rows >= 0) & (rows < len(plane))], columns[(columns >= 0) & (columns < plane.shape[1])])
    values = np.sort(plane[inside][known[inside]])
    return int(values[len(values) // 2]) if len(values) >= 0.25 * len(rows) * len(columns) else -1


# ------------------------------------------------------------------------------------------------------------------------------------ paths


@dataclass(frozen=True)
class Path:
    number: int
    label: int
    nodes: list[int]
    length_um: float
    position: Any
    normal: Any
    radius: Any


def paths_of(skeleton: Skeleton, stretch_um: float, r_min_um: float) -> Iterator[Path]:
    number = skeleton.stretches(stretch_um)
    for n in range(number.max(initial=-1) + 1):
        nodes = sorted(np.flatnonzero(number == n).tolist(), key=lambda i: (skeleton.depth[i], skeleton.node_id[i]))
        chain = _lengthened(skeleton, nodes)
        radius = np.maximum(skeleton.radius_um[chain], r_min_um)
        radius[0] = min(radius[0], radius[1])
        arc = np.append(0.0, np.add.accumulate(skeleton.edge_length_um[chain[1:]]))
        m = max(1, round(arc[-1] / 0.5))
        at = (np.arange(m) + 0.5) * (arc[-1] / m)
        corner = skeleton.position_zyx_um[chain]
        position = _along(arc, corner, at)
        ahead = _along(arc, corner, np.minimum(at + 1.0, arc[-1])) - _along(arc, corner, np.maximum(at - 1.0, 0.0))
        outside = np.ones(m, np.bool_)
        if skeleton.soma is not None:
            away = position - skeleton.position_zyx_um[skeleton.soma]
            outside = (away * away).sum(axis=1) > skeleton.radius_um[skeleton.soma] ** 2
        length_um = float(np.add.accumulate(skeleton.edge_length_um[nodes])[-1])
        samples = (position[outside], _sideways(ahead)[outside], np.interp(at, arc, radius)[outside])
        yield Path(n, int(skeleton.label[nodes[0]]), chain[1:], length_um, *samples)


def _lengthened(skeleton, nodes):
    chain = [int(skeleton.parent[nodes[0]]), *nodes]
    visible_um = float(np.add.accumulate(skeleton.edge_length_um[nodes])[-1])
    if skeleton.parent[chain[0]] == ROOT:
        visible_um -= float(skeleton.radius_um[chain[0]])
    while visible_um < 10.0 and skeleton.parent[chain[0]] != ROOT:
        visible_um += float(skeleton.edge_length_um[chain[0]])
        chain.insert(0, int(skeleton.parent[chain[0]]))
    while visible_um < 10.0 and skeleton.n_children[chain[-1]]:
        chain.append(int(skeleton.first_child[chain[-1]]))
        visible_um += float(skeleton.edge_length_um[chain[-1]])
    return chain


def _along(arc, corner, at):
    return np.stack([np.interp(at, arc, corner[:, axis]) for axis in range(3)], axis=1)


def _sideways(ahead):
    normal, last = np.empty((len(ahead), 2)), (1.0, 0.0)
    for i, (z, y, x) in enumerate(ahead.tolist()):
        flat = sqrt(y * y + x * x)
        if flat > 0.3 * abs(z) and flat > 0:
            last = (x / flat, -y / flat)
        normal[i] = last
    return normal


# ------------------------------------------------------------------------------------------------------------------------------------ views


@dataclass(frozen=True)
class View:
    """Absorbance of a window: under the path, and with the other traced tubes left out."""

    tube: Any
    beside: Any
    grid: Grid

    def __bool__(self) -> bool:
        return 0 not in self.tube.shape


def cut_out(whole, grid: Grid, position, margin_um: float, skeleton: Skeleton | None = None, own: tuple[int, ...] = ()) -> View:
    """What lies around positions."""
    margin = np.array([min(margin_um, SEARCH_UM + 1.0), margin_um, margin_um])
    low = np.clip(grid.to_index(position.min(axis=0) - margin), 0, None)
    high = np.maximum(np.minimum(grid.to_index(position.max(axis=0) + margin) + 1, grid.shape_zyx), low)
    tube = whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    if 0 in tube.shape:
        return View(tube, tube, grid)
    part = grid.crop(tuple(zip(low.tolist(), high.tolist(), strict=True)))
    return View(tube, tube if skeleton is None else without(tube, part, skeleton, 0.7, 1.4, own), part)


def without(values, grid: Grid, skeleton: Skeleton, lateral_um: float, axial_um: float, own=()):
    """A copy that is UNKNOWN within radius + margin of every edge but those of the nodes `own`; twice the margin around the soma."""
    masked = values.copy()
    position, size = grid.to_voxel(skeleton.position_zyx_um), np.asarray(grid.voxel_size_zyx_um)
    for child in np.setdiff1d(np.flatnonzero(skeleton.parent != ROOT), own):
        reach = (skeleton.radius_um[child] + np.array([axial_um, lateral_um, lateral_um])) / size
        start, end = position[child], position[skeleton.parent[child]]
        n = int(np.ceil(sqrt(sum(((end - start) * size) ** 2)) / 0.5)) + 1
        for k in range(n):
            _forget(masked, start + k / max(n - 1, 1) * (end - start), reach)
    if skeleton.soma is not None:
        reach = (skeleton.radius_um[skeleton.soma] + 2 * np.array([axial_um, lateral_um, lateral_um])) / size
        _forget(masked, position[skeleton.soma], reach)
    return masked


def _forget(values, centre, reach):
    low, high = np.maximum(np.ceil(centre - reach), 0).astype(int), np.minimum(np.floor(centre + reach) + 1, values.shape).astype(int)
    if (low < high).all():
        z, y, x = (((np.arange(a, b) - c) / r) ** 2 for a, b, c, r in zip(low, high, centre, reach, strict=True))
        box = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        box[z[:, None, None] + y[:, None] + x < 1.0] = UNKNOWN


def at(values, z, y, x):
    """The voxels that hold continuous positions."""
    index = [np.floor(a + 0.5).astype(np.int64) for a in np.broadcast_arrays(z, y, x)]
    inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, values.shape, strict=True)])
    return np.where(inside, values[tuple(np.where(inside, i, 0) for i in index)], UNKNOWN).astype(np.int64)


# --------------------------------------------------------------------------------------------------------------------------------- measures


@dataclass(frozen=True)
class Oracle:
    """One cell: `rows` as the stretches' table has them without the specimen, `means` and `transforms` of the search for other frames."""

    skeleton: Skeleton
    whole: Any
    grid: Grid
    gates: AlignConfig
    r_min_um: float

    def rows(self, specimen_id: int) -> list[dict[str, Any]]:
        random = np.random.Generator(np.random.PCG64(specimen_id))
        return [self.row(path, random.random((60, 5))) for path in paths_of(self.skeleton, self.gates.stretch_um, self.r_min_um)]

    def row(self, path: Path, draws) -> dict[str, Any]:
        row = {"stretch": path.number, "label": path.label, "length_um": round(path.length_um, 4), "n_samples": 0}
        if len(path.position):
            view = cut_out(self.whole, self.grid, path.position, MARGIN_UM, self.skeleton, path.nodes)
            inside = self._inside_and_ring(path, view, 0.0, 0.0)[0] if view else np.empty((0, 3))
            row["n_samples"] = int(np.count_nonzero((inside != UNKNOWN).all(axis=1)))
        if row["n_samples"] < max(1.0, 0.5 * len(path.position)):
            return {**row, **dict.fromkeys(MEASURES), "verdict": Verdict.NO_DATA}
        elsewhere = without(view.tube, view.grid, self.skeleton, 1.5, 3.0)
        return {**row, **self._judge(path, view, View(elsewhere, elsewhere, view.grid), draws)}

    def lattice(self, grid: Grid):
        size_z, size_y, size_x = grid.voxel_size_zyx_um
        return [
            np.arange(-floor(reach / step + 1e-9), floor(reach / step + 1e-9) + 1) * step
            for reach, step in (
                (self.gates.alongside_um, min(max(size_y, size_x), 0.23)),
                (1.5 * self.gates.max_shift_z_um, max(0.28, size_z / 2)),
            )
        ]

    def ring_um(self, grid: Grid) -> tuple[float, float]:
        """Inner and outer radius of the ring, pushed out until the inner one is one and a half voxels."""
        inner, outer = self.gates.ring_um
        wide = 1.5 * grid.voxel_size_zyx_um[1]
        return (inner, outer) if inner >= wide else (inner + (wide - inner), outer + (wide - inner))

    def scores(self, path: Path, view: View, cap: float = np.inf):
        """(n_s, n_dz) mean of tube - beside over the samples with pixels; NaN where too few have."""
        s_um, dz_um = self.lattice(view.grid)
        step_um = float(s_um[-1] - s_um[-2])
        ring = np.rint((path.radius - self.r_min_um + sum(self.ring_um(view.grid)) / 2) / step_um)
        half = np.rint(0.5 * path.radius / step_um)
        steps = np.arange(len(s_um)) - len(s_um) // 2
        size = np.asarray(view.grid.voxel_size_zyx_um)
        voxel, across = view.grid.to_voxel(path.position), path.normal / size[1:]
        z = voxel[:, 0, None, None] + dz_um / size[0]  # (m, 1, n_dz)

        def probe(values, sideways):
            um = (steps + sideways[:, None]) * step_um
            y, x = (voxel[:, 1 + i, None] + um * across[:, i, None] for i in range(2))
            return at(values, z, y[..., None], x[..., None])

        tube = [probe(view.tube, k) for k in (-half, 0 * half, half)]
        beside = [probe(view.beside, k) for k in (-ring, ring)]
        known = np.logical_and.reduce([values != UNKNOWN for values in (*tube, *beside)])
        most = int(min(6 * cap, 2**40))
        value = np.clip(2 * sum(tube) - 3 * sum(beside), -most, most)
        count = known.sum(axis=0)
        total = np.where(known, value, 0).sum(axis=0)
        return np.where(count >= 0.25 * len(path.position), total / np.maximum(6 * count, 1), nan)

    def _inside_and_ring(self, path: Path, view: View, s_um: float, dz_um: float):
        """(m, 3) voxels inside and (m, 6) of the ring, left side first."""
        size = np.asarray(view.grid.voxel_size_zyx_um)
        across, voxel = path.normal / size[1:], view.grid.to_voxel(path.position)
        voxel[:, 0] += dz_um / size[0]
        voxel[:, 1:] += s_um * across
        ring_um = np.maximum(path.radius - self.r_min_um, 0.0)[:, None] + np.linspace(*self.ring_um(view.grid), 3)
        tube_um = path.radius[:, None] * np.array([-0.5, 0.0, 0.5])

        def probe(values, um):
            return at(values, voxel[:, :1], voxel[:, 1, None] + um * across[:, :1], voxel[:, 2, None] + um * across[:, 1:])

        return probe(view.tube, tube_um), probe(view.beside, np.hstack([-ring_um, ring_um]))

    def _contrast(self, path: Path, view: View, s_um: float, dz_um: float) -> tuple[float, float, float]:
        inside, ring = self._inside_and_ring(path, view, s_um, dz_um)
        noise = self._noise(ring)
        differences = []
        for tube, left, right in zip(inside, ring[:, :3], ring[:, 3:], strict=True):
            sides = [
                int(side[side != UNKNOWN].sum()) / np.count_nonzero(side != UNKNOWN) for side in (left, right) if (side != UNKNOWN).any()
            ]
            if sides and (tube != UNKNOWN).all():
                differences.append(int(tube.sum()) / 3 - (0.5 * (sides[0] + sides[1]) if len(sides) == 2 else sides[0]))
        if not differences:
            return nan, nan, nan
        mean = float(np.add.accumulate(differences)[-1]) / len(differences)
        dark = "".join("x" if value > noise else "." for value in differences)
        return mean / noise, dark.count("x") / len(dark), 0.5 * max(map(len, dark.split("x")))

    def _noise(self, ring) -> float:
        """Standard deviation of the ring's second differences along the path; of the ring where there are under four of them."""
        lag = int(np.ceil(max(1.0, 2 * max(self.grid.voxel_size_zyx_um[1:])) / 0.5))
        before, here, after = ring[: -2 * lag], ring[lag:-lag], ring[2 * lag :]
        known = (before != UNKNOWN) & (here != UNKNOWN) & (after != UNKNOWN)
        rough = np.sort(np.abs(before - 2 * here + after)[known])
        if len(rough) >= 4:
            kept = rough[rough <= max(5 * rough[len(rough) // 2], 50)]
            return max(sqrt(int((kept * kept).sum()) / (6 * len(kept))), 2.0)
        ring = np.sort(ring[ring != UNKNOWN])
        if len(ring) < 4:
            return nan
        middle = ring[len(ring) // 2]
        spread = np.sort(np.abs(ring - middle))[len(ring) // 2]
        kept = ring[ring <= middle + max(5 * spread, 20)]
        n, total, squares = len(kept), int(kept.sum()), int((kept * kept).sum())
        return max(sqrt(max(n * squares - total * total, 0)) / n, 2.0)

    def _judge(self, path: Path, view: View, elsewhere: View, draws) -> dict[str, Any]:
        gates = self.gates
        s_um, dz_um = self.lattice(view.grid)
        near = (np.abs(s_um) <= gates.max_shift_um)[:, None] & (np.abs(dz_um) <= gates.max_shift_z_um)
        cap = 2 * max(highest(self.scores(path, view)[near]), 0.0) + 20
        here = self._best_place(path, view, np.where(near, self.scores(path, view, cap), nan))
        alone = self.scores(path, View(view.beside, view.beside, view.grid), cap)
        if here is not None and highest(alone) <= 1.25 * here[0]:
            p_value = self._chance(path, elsewhere, draws, near, cap, here[0])
            if self._is_stained(here) and not p_value > 0.05 and here[5] <= 3.0:
                return self._found(here, p_value, Verdict.ON)
            if not p_value > 0.1 and not (self._is_stained(here) and here[5] > 3.0):
                return self._found(here, p_value, Verdict.UNCERTAIN)
        there = self._best_place(path, view, alone)
        if here is None or there is None:
            return {**dict.fromkeys(MEASURES), "verdict": Verdict.UNCERTAIN}
        p_value = self._chance(path, elsewhere, draws, np.ones_like(near), cap, there[0])
        return self._found(there, p_value, Verdict.ALONGSIDE if self._is_stained(there) and not p_value > 0.05 else Verdict.NOT_ON)

    def _best_place(self, path: Path, view: View, scores):
        """(score, sideways um, axial um, d', coverage, longest gap um) of the best known place."""
        if highest(scores) == -np.inf:
            return None
        s_um, dz_um = self.lattice(view.grid)
        i, j = np.argwhere(scores == highest(scores))[0]
        return (highest(scores), s_um[i], dz_um[j], *self._contrast(path, view, s_um[i], dz_um[j]))

    def _is_stained(self, place) -> bool:
        return place[3] >= self.gates.d_prime_min and place[4] >= self.gates.coverage_min

    def _found(self, place, p_value: float, verdict: Verdict) -> dict[str, Any]:
        values = (place[3], place[1], place[2], place[4], p_value)
        found = {name: None if np.isnan(value) else round(float(value), 4) for name, value in zip(MEASURES, values, strict=True)}
        return {**found, "verdict": verdict}

    def _chance(self, path: Path, elsewhere: View, draws, region, cap: float, own: float) -> float:
        best = [highest(self.scores(_placed(path, draw), elsewhere, cap)[region]) for draw in draws]
        n = sum(value > -np.inf for value in best)
        return nan if n < 19 else (1 + sum(value >= own for value in best)) / (1 + n)

    def rigid_means(self):
        """Mean absorbance on the axes, capped, for every shift by whole voxels; -inf where few samples have pixels."""
        steps = [max(1, floor(0.25 / length)) for length in self.grid.voxel_size_zyx_um]
        z, y, x = (
            np.arange(-floor(SEARCH_UM / (d * h)), floor(SEARCH_UM / (d * h)) + 1) * h
            for d, h in zip(self.grid.voxel_size_zyx_um, steps, strict=True)
        )
        paths = [path for path in paths_of(self.skeleton, self.gates.stretch_um, self.r_min_um) if len(path.position)]
        voxel = np.concatenate([self.grid.to_voxel(path.position[::2]) for path in paths])[:, :, None, None, None]
        values = at(self.whole, voxel[:, 0] + z[:, None, None], voxel[:, 1] + y[:, None], voxel[:, 2] + x)
        count = (values != UNKNOWN).sum(axis=0)
        total = np.where(values != UNKNOWN, np.minimum(values, 300), 0).sum(axis=0)
        return np.where(count >= max(1.0, 0.25 * len(voxel)), total / np.maximum(count, 1), -np.inf)

    def fit(self, path: Path) -> float:
        """How well a path fits within 1 um of where it lies; -inf where nothing is known."""
        view = cut_out(self.whole, self.grid, path.position, 4.0)
        s_um, dz_um = self.lattice(self.grid)
        return highest(self.scores(path, view, 300)[np.ix_(np.abs(s_um) <= 1.0, np.abs(dz_um) <= 1.0)]) if view else -np.inf


def highest(scores) -> float:
    return float(np.where(np.isnan(scores), -np.inf, scores).max())


def _placed(path: Path, draw) -> Path:
    """Turned by up to 30 degrees, perhaps reversed, moved by 3.5 to 6.5 um in the plane and 2 um in z."""
    turn, flip, direction, reach, axial = draw.tolist()
    cos, sin = _direction((turn - 0.5) / 6)
    if flip < 0.5:
        cos, sin = -cos, -sin
    away_y, away_x = _direction(direction)
    centre = path.position[len(path.position) // 2]
    z, y, x = (path.position - centre).T
    reach_um = 3.5 + 3.0 * reach
    moved = np.stack([z + 4.0 * (axial - 0.5), cos * y - sin * x + reach_um * away_y, sin * y + cos * x + reach_um * away_x], axis=1)
    across_y, across_x = path.normal.T
    return replace(
        path, position=moved + centre, normal=np.stack([cos * across_y - sin * across_x, sin * across_y + cos * across_x], axis=1)
    )


def _direction(turns: float) -> tuple[float, float]:
    return round(float(np.cos(2 * np.pi * turns)), 9), round(float(np.sin(2 * np.pi * turns)), 9)
