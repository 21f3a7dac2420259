"""Is the skeleton on its stain? Per stretch, and for the cell against every frame it could have been mistaken for.

A stretch is moved sideways by s and axially by dz; its score is the mean absorbance inside the tube along the moved path. It is ON where
the best score near the given position beats random placements of the same path nearby, most samples are darker than the tissue beside
them, and the contrast d' is high enough. Sums are over whole numbers and stored values are rounded, the same on every machine.

`stretches` makes the paths, `contrast` measures the stain along them, `frames` tries other places for the whole cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Grade, Label, Verdict
from brightfield.core.skeleton import Skeleton
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.contrast import Contrast, Gates, View, highest, is_empty, window_around
from brightfield.stages.align.paths import Reals, Stretch, stretches_of
from brightfield.stages.align.transforms import Fit, RigidSearch, best_frame, transform_scores

N_PLACEMENTS = 60
_P_MAX = 0.05
_LEAST_PLACEMENTS = 19
"""Fewer random placements cannot reach p = 0.05; where the arbor leaves no room for them the other gates decide."""

_SLOPE = 1.25
"""Stain that is so much darker just beyond the gates is the neurite itself, and the gates only hold its slope."""

_MEASURES = ("d_prime", "shift_um", "shift_z_um", "coverage", "p_value")
_MARGIN_UM = 10.0
_SHARES = ((Grade.A, 0.90), (Grade.B, 0.75), (Grade.C, 0.50))


@dataclass(frozen=True, slots=True)
class Alignment:
    """Rows of `schema.ALIGNMENT` and the one row of `schema.ALIGNMENT_CELLS`, ready for a data frame."""

    stretches: list[dict[str, Any]]
    cell: dict[str, Any]


def align_cell(specimen_id: int, skeleton: Skeleton, pixels: Pixels, gates: Gates) -> Alignment:
    """Measure one cell. skeleton: in the frame of the stack. Reads the stack window by window, one stretch at a time."""
    pixels = pixels.holding()
    random = np.random.Generator(np.random.PCG64(specimen_id))
    rigid = RigidSearch(pixels.grid)
    rows, contrasts = [], []
    for path in stretches_of(skeleton, gates.stretch_um, gates.r_min_um):
        contrast, row = _measure(path, skeleton, pixels, gates, rigid, random)
        rows.append({"specimen_id": specimen_id, **row})
        contrasts.append(contrast)
    return Alignment(rows, {"specimen_id": specimen_id, **_cell_row(skeleton, pixels, gates, rigid, rows, contrasts)})


# ------------------------------------------------------------------------------------------------------------------------------ one stretch


def _measure(
    path: Stretch, skeleton: Skeleton, pixels: Pixels, gates: Gates, rigid: RigidSearch, random: np.random.Generator
) -> tuple[Contrast, dict[str, Any]]:
    """The contrast at the given position, and the stretch's row without the specimen."""
    window = window_around(pixels, path.position, _MARGIN_UM)
    draws = random.random((N_PLACEMENTS, 5))  # always drawn, so that a stretch without pixels changes no other's placements
    row: dict[str, Any] = {"stretch": path.number, "label": path.label, "length_um": round(path.length_um, 4), "n_samples": 0}
    here = Contrast(np.empty(0), np.empty((0, 6), np.int16))
    if not is_empty(window):
        view = View.of(pixels, window, gates, skeleton, path.nodes)
        here = view.contrast(path, 0.0, 0.0)
        rigid.add(view, path)
        row["n_samples"] = here.n_samples
    if here.n_samples < max(1.0, 0.5 * len(path.position)):
        return here, {**row, **dict.fromkeys(_MEASURES), "verdict": Verdict.NO_DATA}
    return here, {**row, **_judge(path, view, view.elsewhere(skeleton), draws, gates)}


def _judge(path: Stretch, view: View, elsewhere: View, draws: Reals, gates: Gates) -> dict[str, Any]:
    """Peak, significance and verdict: first near the given position, then as far as ALONGSIDE reaches."""
    scores = view.scores(path)
    s_um, dz_um = view.lattice
    axial = np.abs(dz_um) <= gates.max_shift_z_um + 0.6
    near = (np.abs(s_um) <= gates.max_shift_um + 0.25)[:, None] & axial
    around = highest(scores[(np.abs(s_um) <= gates.max_shift_um + 1.0)[:, None] & axial])
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


def _placed(path: Stretch, draw: Reals) -> Stretch:
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


def _significance(path: Stretch, view: View, elsewhere: View, draws: Reals, region: NDArray[np.bool_], score: float) -> float:
    """Share of placements, this one among them, whose best score in `region` is as high; NaN without room for enough.

    No sample counts for more than twice the path's own score: a speck of debris, dark as it is, is no path.
    """
    cap = 2 * max(score, 0.0) + 1
    best = [highest(elsewhere.scores(_placed(path, draw), cap)[region]) for draw in draws]
    own = highest(view.scores(path, cap)[region])
    n = sum(value > -np.inf for value in best)
    return nan if n < _LEAST_PLACEMENTS else (1 + sum(value >= own for value in best)) / (1 + n)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


# --------------------------------------------------------------------------------------------------------------------------------- the cell


def _pooled(contrasts: Sequence[Contrast]) -> Contrast:
    if not contrasts:
        return Contrast(np.empty(0), np.empty((0, 6), np.int16))
    return Contrast(np.concatenate([c.inside for c in contrasts]), np.concatenate([c.ring for c in contrasts]))


def _cell_row(
    skeleton: Skeleton, pixels: Pixels, gates: Gates, rigid: RigidSearch, rows: list[dict[str, Any]], contrasts: list[Contrast]
) -> dict[str, Any]:
    dendrite, axon = _is_dendrite(rows), _is_axon(rows)
    everything = _pooled(contrasts)
    _, sd = everything.ring_moments()
    shift_um, shifted, given = rigid.best()
    fit = best_frame(transform_scores(skeleton, pixels, gates, sd), shift_um, shifted / sd, given / sd, pixels.grid, gates)
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


def _rejection(rows: list[dict[str, Any]], fit: Fit, shift_um: Reals, share: float) -> str | None:
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
