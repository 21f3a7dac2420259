"""Scores as people and programs read them: a table, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

from brightfield.core.codes import Split
from brightfield.evaluation.runlength import Runs
from brightfield.evaluation.scoring import CellScore, Score, TraceScore, VoxelScore
from brightfield.evaluation.voxels import NEURITE

POOLED = "all"
"""The name of what is pooled over all cells."""

type Row = dict[str, float | int | str | None]


def as_json(scores: Sequence[CellScore]) -> str:
    """Every cell and every side pooled, with the counts behind the scores; shares are not rounded."""
    cells = [{"specimen_id": cell.specimen_id, "split": cell.split, **_document(cell.score)} for cell in scores]
    sides = {name: _document(score) for name, score in pooled(scores)}
    return json.dumps({"cells": cells, "pooled": sides}, indent=1)


def as_text(scores: Sequence[CellScore]) -> str:
    """A table of the cells, and of the sides where there are several cells."""
    named = [(f"{cell.specimen_id} ({cell.split})", cell.score) for cell in scores]
    if len(scores) > 1:
        named += [(name, score) for name, score in pooled(scores) if name == POOLED or len(_sides(scores)) > 1]
    voxels = [(name, row) for name, score in named if isinstance(score, VoxelScore) for row in _with_runs(score)]
    traces = [(name, _trace_row(score)) for name, score in named if isinstance(score, TraceScore)]
    return "\n\n".join(_table(rows) for rows in (voxels, traces) if rows)


def pooled(scores: Sequence[CellScore]) -> list[tuple[str, Score]]:
    """The scores of every side and of all cells: of the counts added up, so that long neurites weigh more than short ones.

    Volumes and traces are pooled apart.
    """
    found: list[tuple[str, Score]] = []
    for name in (*_sides(scores), POOLED):
        of_side = [cell.score for cell in scores if name in (cell.split, POOLED)]
        for kind in (VoxelScore, TraceScore):
            of_kind = [score for score in of_side if isinstance(score, kind)]
            if of_kind:
                found.append((name, reduce(add, of_kind)))
    return found


def _sides(scores: Iterable[CellScore]) -> list[str]:
    found = {cell.split for cell in scores}
    return [side.value for side in Split if side in found]


# ---------------------------------------------------------------------------------------------------------------------- numbers


def _voxel_rows(score: VoxelScore) -> list[Row]:
    rows: list[Row] = []
    for group, counts in score.voxels.items():
        line = score.centreline.get(group)
        row: Row = {"class": group, "precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
        row["cldice"] = None if line is None else line.f1
        rows.append(row)
    return rows


def _with_runs(score: VoxelScore) -> list[Row]:
    """Run lengths are those of all neurites together."""
    runs = _run_row(score.runs)
    return [row | (runs if row["class"] == NEURITE else dict.fromkeys(runs)) for row in _voxel_rows(score)]


def _trace_row(score: TraceScore) -> Row:
    return {
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        **_run_row(score.runs),
        "ssd_um": score.distance.ssd_um,
        "length_error": score.length_error,
        "bifurcation_error": score.bifurcation_error,
    }


def _run_row(runs: Runs) -> Row:
    return {"erl_um": runs.erl_um, "largest_erl_um": runs.largest_erl_um, "splits": runs.n_split, "merges": runs.n_merges}


def _edge_counts(runs: Runs) -> dict[str, int]:
    return {name: getattr(runs, name) for name in ("n_correct", "n_split", "n_merged", "n_omitted")}


def _document(score: Score) -> dict[str, Any]:
    return _volume_document(score) if isinstance(score, VoxelScore) else _trace_document(score)


def _volume_document(score: VoxelScore) -> dict[str, Any]:
    classes = {}
    for row in _voxel_rows(score):
        group = str(row.pop("class"))
        counts, line = score.voxels[group], score.centreline.get(group)
        behind = {name: getattr(counts, name) for name in counts.__slots__}
        centreline = (
            None if line is None else {"precision": line.precision, "recall": line.recall} | {n: getattr(line, n) for n in line.__slots__}
        )
        classes[group] = row | {"voxels": behind, "centreline": centreline}
    return {"kind": "voxels", "classes": classes, "run_lengths": _run_row(score.runs) | _edge_counts(score.runs)}


def _trace_document(score: TraceScore) -> dict[str, Any]:
    distance = score.distance
    lengths = {name: getattr(score, name) for name in ("true_um", "found_um", "right_um", "wrong_um")}
    counts = {"n_bifurcations": score.n_bifurcations, "n_bifurcations_traced": score.n_bifurcations_traced}
    ssd = {"ssd_recall": distance.of_truth.share_near, "ssd_precision": distance.of_trace.share_near, "ssd_f1": distance.f1}
    return {"kind": "trace", **_trace_row(score), **ssd, **lengths, **_edge_counts(score.runs), **counts}


# ------------------------------------------------------------------------------------------------------------------------- text


def _table(rows: Sequence[tuple[str, Row]]) -> str:
    head = ["cell", *rows[0][1]]
    lines = [head, *([name, *map(_shown, row.values())] for name, row in rows)]
    shown = [lines[0], *([("" if i and line[0] == lines[i][0] else line[0]), *line[1:]] for i, line in enumerate(lines[1:]))]
    widths = [max(len(line[column]) for line in shown) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in shown)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
