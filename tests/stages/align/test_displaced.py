"""Traces that leave their stain for a part of the path: what is told of the pieces, and of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from brightfield.config.options import AlignConfig
from brightfield.core.codes import Label, Verdict
from brightfield.core.space import Grid
from brightfield.sources.demo.phantom import ArborPlan, grow
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import Alignment, align_cell
from brightfield.testing.grids import stain
from brightfield.testing.skeletons import displaced

GRID = Grid((72, 260, 260), (0.56, 0.4576, 0.4576))
ARBOR = grow(ArborPlan(31, (38.0, 115.0, 115.0), n_basal=5, reach_um=70.0, axon_um=500.0))
FLAGGED = (Verdict.NOT_ON, Verdict.ALONGSIDE)
GATES = AlignConfig()


def aligned(skeleton, seed: int, darkness: float = 0.3) -> Alignment:
    volume = stain(ARBOR, GRID, seed=seed, darkness=darkness)
    return align_cell(seed, skeleton, Pixels(GRID, lambda window: volume[tuple(slice(*axis) for axis in window)]), GATES, 0.23)


def flagged_edges(skeleton, alignment: Alignment) -> np.ndarray:
    wrong = [row["stretch"] for row in alignment.stretches if row["verdict"] in FLAGGED]
    return np.isin(skeleton.stretches(GATES.stretch_um), wrong)


def test_pieces_two_um_off_are_found_and_little_of_the_rest_is_lost() -> None:
    """A piece is found where at least half of it is flagged: its ends may share a stretch with what is in place."""
    found, lost, clean = [], 0.0, 0.0
    for seed in (101, 102, 103):
        trace, piece, between = displaced(ARBOR, seed)
        flagged, um = flagged_edges(trace, aligned(trace, seed)), trace.edge_length_um
        found += [um[(piece == k) & flagged].sum() / um[piece == k].sum() for k in range(1, piece.max() + 1)]
        rest = (piece == 0) & ~between
        lost, clean = lost + um[rest & flagged].sum(), clean + um[rest].sum()
    assert len(found) >= 6
    assert np.mean(np.array(found) >= 0.5) >= 0.9
    assert np.mean(found) >= 0.8
    assert lost <= 0.02 * clean


@pytest.mark.parametrize("darkness", [0.06, 0.12, 0.5])
def test_an_exact_trace_is_hardly_ever_called_wrong_however_faint(darkness: float) -> None:
    alignment = aligned(ARBOR, 104, darkness)
    um = ARBOR.edge_length_um
    for labels, most in (((Label.AXON,), 0.03), ((Label.BASAL_DENDRITE, Label.APICAL_DENDRITE), 0.01)):
        own = np.isin(ARBOR.label, labels)
        assert um[own & flagged_edges(ARBOR, alignment)].sum() <= most * um[own].sum()


def test_what_cannot_be_seen_is_uncertain_or_not_on_but_never_on() -> None:
    alignment = aligned(ARBOR, 105, 0.0)
    assert {row["verdict"] for row in alignment.stretches if row["length_um"] > 10} <= {Verdict.UNCERTAIN, Verdict.NOT_ON}
