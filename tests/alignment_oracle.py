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
            row["n_samples"] = len(self._inside_and_ring(path, view, 0.0, 0.0)[0]) if view else 0
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

    def scores(self, path: Path, view: View, cap: float = np.inf):
        """(n_s, n_dz) mean of tube - beside over the samples with pixels; NaN where too few have."""
        s_um, dz_um = self.lattice(view.grid)
        step_um = float(s_um[-1] - s_um[-2])
        ring = np.rint((path.radius - self.r_min_um + sum(self.gates.ring_um) / 2) / step_um)
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
        value = np.minimum(2 * sum(tube) - 3 * sum(beside), int(min(6 * cap, 2**40)))
        count = known.sum(axis=0)
        total = np.where(known, value, 0).sum(axis=0)
        return np.where(count >= 0.25 * len(path.position), total / np.maximum(6 * count, 1), nan)

    def _inside_and_ring(self, path: Path, view: View, s_um: float, dz_um: float):
        size = np.asarray(view.grid.voxel_size_zyx_um)
        across, voxel = path.normal / size[1:], view.grid.to_voxel(path.position)
        voxel[:, 0] += dz_um / size[0]
        voxel[:, 1:] += s_um * across
        ring_um = np.maximum(path.radius - self.r_min_um, 0.0)[:, None] + np.linspace(*self.gates.ring_um, 3)
        tube_um = path.radius[:, None] * np.array([-0.5, 0.0, 0.5])

        def probe(values, um):
            return at(values, voxel[:, :1], voxel[:, 1, None] + um * across[:, :1], voxel[:, 2, None] + um * across[:, 1:])

        inside, ring = probe(view.tube, tube_um), probe(view.beside, np.hstack([-ring_um, ring_um]))
        return inside[(inside != UNKNOWN).all(axis=1)].sum(axis=1) / 3, np.sort(ring[ring != UNKNOWN])

    def _contrast(self, path: Path, view: View, s_um: float, dz_um: float) -> tuple[float, float]:
        inside, ring = self._inside_and_ring(path, view, s_um, dz_um)
        if len(ring) < 4 or not len(inside):
            return nan, nan if not len(inside) else 0.0
        middle = ring[len(ring) // 2]
        spread = np.sort(np.abs(ring - middle))[len(ring) // 2]
        kept = ring[ring <= middle + max(5 * spread, 20)]
        n, total, squares = len(kept), int(kept.sum()), int((kept * kept).sum())
        mean, sd = total / n, max(sqrt(max(n * squares - total * total, 0)) / n, 2.0)
        return (float(np.add.accumulate(inside)[-1]) / len(inside) - mean) / sd, np.count_nonzero(inside > mean + sd) / len(inside)

    def _judge(self, path: Path, view: View, elsewhere: View, draws) -> dict[str, Any]:
        gates, scores = self.gates, self.scores(path, view)
        s_um, dz_um = self.lattice(view.grid)
        axial = np.abs(dz_um) <= gates.max_shift_z_um + 0.6
        near = (np.abs(s_um) <= gates.max_shift_um + 0.25)[:, None] & axial
        around = highest(scores[(np.abs(s_um) <= gates.max_shift_um + 1.0)[:, None] & axial])
        found: dict[str, Any] = dict.fromkeys(MEASURES)
        for verdict, region in ((Verdict.ON, near), (Verdict.ALONGSIDE, np.ones_like(near))):
            searched = np.where(region & ~np.isnan(scores), scores, -np.inf)
            i, j = np.unravel_index(int(np.argmax(searched)), searched.shape)
            if searched[i, j] == -np.inf:
                continue
            shift_um, shift_z_um = float(s_um[i]), float(dz_um[j])
            d_prime, coverage = self._contrast(path, view, shift_um, shift_z_um)
            p_value = self._chance(path, view, elsewhere, draws, region, float(searched[i, j]))
            values = (d_prime, shift_um, shift_z_um, coverage, p_value)
            found = {name: None if np.isnan(value) else round(float(value), 4) for name, value in zip(MEASURES, values, strict=True)}
            within = abs(shift_um) <= gates.max_shift_um and abs(shift_z_um) <= gates.max_shift_z_um
            inside_gates = verdict == Verdict.ALONGSIDE or (within and around <= 1.25 * searched[i, j])
            if inside_gates and d_prime >= gates.d_prime_min and coverage >= gates.coverage_min and not p_value > 0.05:
                return {**found, "verdict": verdict}
        return {**found, "verdict": Verdict.NOT_ON}

    def _chance(self, path: Path, view: View, elsewhere: View, draws, region, score: float) -> float:
        cap = 2 * max(score, 0.0) + 1
        best = [highest(self.scores(_placed(path, draw), elsewhere, cap)[region]) for draw in draws]
        own = highest(self.scores(path, view, cap)[region])
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
