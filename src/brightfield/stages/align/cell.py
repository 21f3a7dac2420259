"""Is the skeleton on its stain? Per stretch, and for the cell against every frame it could have been mistaken for.

A stretch is moved sideways by s and axially by dz; its score is the mean absorbance inside the tube along the moved path. It is ON where
the best score near the given position beats random placements of the same path nearby, most samples are darker than the tissue beside
them, and the contrast d' is high enough. Sums are over whole numbers and stored values are rounded, the same on every machine.

`stretches` makes the paths, `views` cuts out the stain around each, `contrast` and `search` measure it, `frames` tries other places for
the whole cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np

from brightfield.config.options import AlignConfig
from brightfield.core.codes import Grade, Label, Verdict
from brightfield.core.reach import refuse_far
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.contrast import Contrast
from brightfield.stages.align.paths import Reals, Stretch, stretches_of
from brightfield.stages.align.search import N_PLACEMENTS, Region, Search, highest, random_placements
from brightfield.stages.align.transforms import IDENTITY, SHIFT, Fit, Frames, RigidSearch, best_frame, is_tilted
from brightfield.stages.align.views import Tubes, View, is_empty, window_around

_P_MAX = 0.05
_P_FAINT = 0.1
"""Stain that does as well as this may be the neurite, though faint: where a trace lies 2 um off, most random places do better than it."""
_SLOPE = 1.25
"""Stain that is so much darker just beyond the gates is the neurite itself, and the gates only hold its slope."""

_GAP_UM = 3.0
"""A neurite that can be seen has no longer gap; a trace that leaves it for a part of a stretch has."""

_SEEN = (Verdict.ON, Verdict.ALONGSIDE, Verdict.UNCERTAIN)
_MEASURES = ("d_prime", "shift_um", "shift_z_um", "coverage", "p_value")
_MARGIN_UM = 10.0
_RING_VOXELS = 1.5
_SHARES = ((Grade.A, 0.90), (Grade.B, 0.75), (Grade.C, 0.50))


@dataclass(frozen=True, slots=True)
class Alignment:
    """Rows of `schema.ALIGNMENT` and the one row of `schema.ALIGNMENT_CELLS`, ready for a data frame."""

    stretches: list[dict[str, Any]]
    cell: dict[str, Any]


def align_cell(specimen_id: int, skeleton: Skeleton, pixels: Pixels, gates: AlignConfig, r_min_um: float) -> Alignment:
    """Measure one cell. skeleton: in the frame of the stack. r_min_um: the radius of the thinnest neurite that is drawn.

    Reads each part of the stack once, computes stretch by stretch.
    """
    refuse_far(skeleton, pixels.grid)
    gates = _on_grid(gates, pixels.grid)
    measured = _Measured(skeleton, pixels.holding(), gates)
    paths = list(stretches_of(skeleton, gates.stretch_um, r_min_um))
    draws = np.random.Generator(np.random.PCG64(specimen_id)).random((len(paths), N_PLACEMENTS, 5))
    for path, placements in zip(paths, random_placements(draws), strict=True):
        measured.add(path, placements)
    rows = [{"specimen_id": specimen_id, **row} for row in measured.rows]
    return Alignment(rows, {"specimen_id": specimen_id, **_cell_row(measured, paths)})


def _on_grid(gates: AlignConfig, grid: Grid) -> AlignConfig:
    """The gates with a ring that is not within the voxels of the tube, however coarse they are."""
    least_um = _RING_VOXELS * max(grid.voxel_size_zyx_um[1:])
    return replace(gates, ring_um=[um + max(0.0, least_um - gates.ring_um[0]) for um in gates.ring_um])


# ------------------------------------------------------------------------------------------------------------------------------ one stretch


class _Measured:
    """The stretches of a cell that were measured so far: their rows without the specimen, and their contrasts at the given position."""

    def __init__(self, skeleton: Skeleton, pixels: Pixels, gates: AlignConfig) -> None:
        self.pixels, self.gates = pixels, gates
        self.search, self.tubes, self.rigid = Search(pixels.grid, gates), Tubes(skeleton), RigidSearch(pixels.grid)
        self.rows: list[dict[str, Any]] = []
        self.contrasts: list[Contrast] = []

    def add(self, path: Stretch, placements: Reals) -> None:
        """Measure a stretch."""
        row: dict[str, Any] = {"stretch": path.number, "label": path.label, "length_um": round(path.length_um, 4), "n_samples": 0}
        here = Contrast.none()
        window = window_around(self.pixels, path.position, _MARGIN_UM)
        if not is_empty(window):
            view = View.of(self.pixels, window, self.tubes, path.nodes)
            here = Contrast.along(path, view, self.gates.ring_um)
            self.rigid.add(view, path)
            row["n_samples"] = here.n_samples
        if here.n_samples < max(1.0, 0.5 * len(path.position)):
            row |= {**dict.fromkeys(_MEASURES), "verdict": Verdict.NO_DATA}
        else:
            row |= _judge(path, view, view.elsewhere(self.tubes), placements, self.search)
        self.rows.append(row)
        self.contrasts.append(here)


def _judge(path: Stretch, view: View, elsewhere: View, placements: Reals, search: Search) -> dict[str, Any]:
    """Verdict and measures: what lies near the given position, against chance and against what lies farther away."""
    gates, everywhere = search.gates, search.everywhere
    near = search.within(gates.max_shift_um, gates.max_shift_z_um)
    cap = search.cap(highest(search.scores(view, path, near)))
    scores = search.scores(View(view.beside, view.beside, view.grid), path, everywhere, cap)  # another trace's stain is no better place
    here = _at_best(path, view, search, near, search.scores(view, path, near, cap))
    if here is not None and highest(scores) <= _SLOPE * here.score:
        chance = search.chance(path, elsewhere, placements, near, cap, here.score)
        stained = here.is_stained(gates)
        if not chance > _P_FAINT and (not stained or here.gap_um <= _GAP_UM):
            return here.row(chance, Verdict.ON if stained and not chance > _P_MAX else Verdict.UNCERTAIN)
    there = _at_best(path, view, search, everywhere, scores)
    if here is None or there is None:  # where it lies, nothing can be said
        return {**dict.fromkeys(_MEASURES), "verdict": Verdict.UNCERTAIN}
    chance = search.chance(path, elsewhere, placements, everywhere, cap, there.score)
    alongside = there.is_stained(gates) and not chance > _P_MAX
    return there.row(chance, Verdict.ALONGSIDE if alongside else Verdict.NOT_ON)


@dataclass(frozen=True, slots=True)
class _Place:
    """The best place of a path in a region: its score, where it is (um), and the contrast there."""

    score: float
    shift_um: float
    shift_z_um: float
    d_prime: float
    coverage: float
    gap_um: float

    def is_stained(self, gates: AlignConfig) -> bool:
        """Whether contrast and coverage are high enough."""
        return self.d_prime >= gates.d_prime_min and self.coverage >= gates.coverage_min

    def row(self, p_value: float, verdict: Verdict) -> dict[str, Any]:
        """What the stretch's table says."""
        values = (self.d_prime, self.shift_um, self.shift_z_um, self.coverage, p_value)
        return {**dict(zip(_MEASURES, map(_rounded, values), strict=True)), "verdict": verdict}


def _at_best(path: Stretch, view: View, search: Search, region: Region, scores: Reals) -> _Place | None:
    best = highest(scores)
    if best == -np.inf:
        return None
    i, j = np.argwhere(scores == best)[0]
    shift_um, shift_z_um = float(search.s_um[region.s[0] + i]), float(search.dz_um[region.dz[0] + j])
    return _Place(best, shift_um, shift_z_um, *Contrast.along(path, view, search.gates.ring_um, shift_um, shift_z_um).measures())


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


# --------------------------------------------------------------------------------------------------------------------------------- the cell


def _cell_row(measured: _Measured, paths: Sequence[Stretch]) -> dict[str, Any]:
    rows, pixels, gates = measured.rows, measured.pixels, measured.gates
    dendrite, axon = _is_dendrite(rows), _is_axon(rows)
    everything = Contrast.pooled(measured.contrasts)
    _, sd = everything.ring_moments()
    share = _share_on(rows)
    frames = Frames(paths, pixels, measured.search, sd)
    doubtful, tilted = _grade(share) != Grade.A, is_tilted(*_axial_shifts(rows, paths))
    fit = best_frame(frames, measured.rigid, sd, pixels.grid, gates, doubtful=doubtful, tilted=tilted)
    shift_um, _, _ = measured.rigid.best()
    reason = _rejection(rows, fit, shift_um, share)
    return {
        "d_prime": _rounded(everything.measures()[0]),
        "d_prime_dendrite": _rounded(_pooled_d_prime(measured.contrasts, dendrite)),
        "d_prime_axon": _rounded(_pooled_d_prime(measured.contrasts, axon)),
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


def _axial_shifts(rows: list[dict[str, Any]], paths: Sequence[Stretch]) -> tuple[list[float], list[float], list[float]]:
    """Depth, axial shift (um) and length of the stretches that have stain under them or near."""
    seen = [(row, path) for row, path in zip(rows, paths, strict=True) if row["verdict"] in _SEEN and row["shift_z_um"] is not None]
    depth = [float(path.position[:, 0].mean()) for _, path in seen]
    return depth, [row["shift_z_um"] for row, _ in seen], [row["length_um"] for row, _ in seen]


def _pooled_d_prime(contrasts: Sequence[Contrast], chosen: Sequence[bool]) -> float:
    return Contrast.pooled([contrast for contrast, keep in zip(contrasts, chosen, strict=True) if keep]).measures()[0]


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


def _rejection(rows: list[dict[str, Any]], fit: Fit, shift_um: Reals, share: float) -> str | None:
    """Why the cell must not be used, None where it may."""
    total = sum(row["length_um"] for row in rows)
    known = sum(row["length_um"] for row in rows if row["verdict"] != Verdict.NO_DATA)
    if known < 0.5 * total or not rows:
        return f"only {known:.0f} of {total:.0f} um of path have pixels"
    if fit.name != IDENTITY:
        z, y, x = shift_um.tolist()
        name = f"a shift of z {z:+.1f}, y {y:+.1f}, x {x:+.1f} um" if fit.name == SHIFT else fit.name
        return f"{name} fits better than the given position: {fit.score:.1f} against {fit.identity:.1f} standard deviations"
    if _grade(share) == Grade.REJECTED:
        return f"{100 * share:.0f} % of the path length is ON, {100 * _SHARES[-1][1]:.0f} % is the least for training"
    return None
