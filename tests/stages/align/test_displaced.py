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
from brightfield.stages.rasterize.misregistered import StretchVerdict, wrong_nodes
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


def masked_edges(skeleton, alignment: Alignment) -> np.ndarray:
    """What labels that look at the image do not trust."""
    verdicts = {row["stretch"]: StretchVerdict.of(row) for row in alignment.stretches}
    masked = np.zeros(len(skeleton), bool)
    for nodes, _ in wrong_nodes(skeleton, skeleton.stretches(GATES.stretch_um), verdicts):
        masked[nodes] = True
    return masked


def test_pieces_two_um_off_are_masked_and_little_of_the_rest_is() -> None:
    """By length; the ends of a piece share a stretch with what is in place."""
    displaced_um = masked_um = clean_um = lost_um = 0.0
    for seed in (101, 102, 103, 104, 105, 106):
        trace, piece, between = displaced(ARBOR, seed)
        masked, um, off = masked_edges(trace, aligned(trace, seed)), trace.edge_length_um, piece > 0
        rest = ~off & ~between
        displaced_um, masked_um = displaced_um + um[off].sum(), masked_um + um[off & masked].sum()
        clean_um, lost_um = clean_um + um[rest].sum(), lost_um + um[rest & masked].sum()
    assert displaced_um > 240
    assert masked_um >= 0.9 * displaced_um
    assert lost_um <= 0.02 * clean_um


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
