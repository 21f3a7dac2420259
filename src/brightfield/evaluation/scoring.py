"""A prediction of a cell against its truth: voxels are streamed in blocks, traces are compared as lines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import fsum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import ConfigError, InputError, StackError
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Window
from brightfield.evaluation import skeletons as paths
from brightfield.evaluation.connectivity import Connectivity
from brightfield.evaluation.predictions import TRACE_SUFFIX, VoxelPrediction, open_trace, open_volume_prediction, prediction_files
from brightfield.evaluation.runlength import Runs, run_lengths
from brightfield.evaluation.skeletons import Distance, Fit
from brightfield.evaluation.thinning import inner, thinned, widened
from brightfield.evaluation.truth import Truth, TruthVoxels, read_truth
from brightfield.evaluation.voxels import (
    CENTRELINE_GROUPS,
    FOREGROUND,
    GROUPS,
    LEFT_OUT,
    N_CODES,
    NEURITE,
    Counts,
    Known,
    confusion,
    counts_of,
    harmonic_mean,
    in_group,
    ratio,
)


@dataclass(frozen=True)
class VoxelScore:
    """A volume's hits by group, those of its centreline, and the run lengths of its neurites; they add up over cells."""

    voxels: dict[str, Counts] = field(default_factory=dict)
    centreline: dict[str, Counts] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)

    def __add__(self, other: VoxelScore) -> VoxelScore:
        return VoxelScore(_added(self.voxels, other.voxels), _added(self.centreline, other.centreline), self.runs + other.runs)


@dataclass(frozen=True)
class TraceScore:
    """How a trace fits, adding up over cells. Lengths in um.

    - true_um, found_um: true path that may be scored, and how much of it the trace finds.
    - right_um, wrong_um: traced path that lies on the truth and that does not, of the types whose absence is known.
    - traced_um, against_um, n_bifurcations_traced, n_bifurcations: what is traced and what is true, where both can be compared (all types
      known, or some and those on the truth).
    """

    true_um: float = 0.0
    found_um: float = 0.0
    right_um: float = 0.0
    wrong_um: float = 0.0
    traced_um: float = 0.0
    against_um: float = 0.0
    n_bifurcations_traced: int = 0
    n_bifurcations: int = 0
    runs: Runs = field(default_factory=Runs)
    distance: Distance = field(default_factory=Distance)

    def __add__(self, other: TraceScore) -> TraceScore:
        return TraceScore(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def recall(self) -> float | None:
        """Share of the true path length that is found."""
        return ratio(self.found_um, self.true_um)

    @property
    def precision(self) -> float | None:
        """Share of the traced path length that lies on the truth; None where nobody can know."""
        return ratio(self.right_um, self.right_um + self.wrong_um)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both."""
        return harmonic_mean(self.precision, self.recall)

    @property
    def length_error(self) -> float | None:
        """(traced - true) / true path length: -0.2 is a fifth too short."""
        return ratio(self.traced_um - self.against_um, self.against_um)

    @property
    def bifurcation_error(self) -> float | None:
        """(traced - true) / true number of bifurcations."""
        return ratio(self.n_bifurcations_traced - self.n_bifurcations, self.n_bifurcations)


class NoClassesError(ValueError):
    """A volume that is read as classes and holds a mask."""


type Score = VoxelScore | TraceScore


@dataclass(frozen=True)
class CellScore:
    """The score of one cell's prediction."""

    specimen_id: int
    split: str
    score: Score


@dataclass(frozen=True, slots=True)
class Options:
    """How predictions are read and matched.

    - threshold: values above it are foreground (None: codes).
    - unit: of traces, um or voxels.
    - tolerance_um: how far a path may be off.

    Raises ConfigError for numbers that make no sense.
    """

    threshold: float | None = None
    unit: str = "um"
    tolerance_um: float = paths.TOLERANCE_UM

    def __post_init__(self) -> None:
        if not 0 < self.tolerance_um < np.inf:
            raise ConfigError(f"the tolerance is a distance in um above 0, found {self.tolerance_um}")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise ConfigError(f"the threshold is a number, found {self.threshold}")


def evaluate(
    root: Path, path: Path, *, cell: int | None = None, split: str | None = None, options: Options | None = None
) -> list[CellScore]:
    """Score the predictions at `path` against the dataset at `root`, by specimen id; with `split` only those of that side.

    Raises the errors of `predictions` and `truth`: each names the file, and for voxels their size.
    """
    files = prediction_files(path, cell)
    options = options or Options()
    truths = read_truth(root, sorted(files), split)
    scores = [CellScore(truth.specimen_id, truth.split, score_file(files[truth.specimen_id], truth, options)) for truth in truths]
    if not scores:
        raise InputError(f"holds no prediction of a cell of the side {split}, only of {', '.join(map(str, sorted(files)))}", path=path)
    return scores


def score_file(path: Path, truth: Truth, options: Options) -> Score:
    """Score one file against the cell that it is of."""
    if path.suffix.lower() == TRACE_SUFFIX:
        return score_trace(open_trace(path, truth.labels.grid, options.unit), truth, options.tolerance_um)
    try:
        return score_volume(open_volume_prediction(path, truth.labels.grids, options.threshold), truth)
    except NoClassesError as error:
        raise StackError(str(error), path=path) from error


# ------------------------------------------------------------------------------------------------------------------- volumes


def groups_of(prediction: VoxelPrediction, truth: Truth) -> tuple[str, ...]:
    """What can be scored: every class, or the neurites alone where prediction or labels tell no classes."""
    return (NEURITE,) if prediction.is_mask or truth.kind == "inside" else tuple(GROUPS)


def score_volume(prediction: VoxelPrediction, truth: Truth) -> VoxelScore:
    """Score a volume block by block: memory does not grow with it (but see `components`)."""
    if truth.kind == "inside" and not prediction.is_mask:
        prediction = _as_mask(prediction)
    groups, voxels = groups_of(prediction, truth), truth.on_level(prediction.level)
    table = np.zeros((N_CODES, N_CODES), np.int64)
    lines: dict[str, Counts] = {}
    connectivity = Connectivity(truth, voxels)
    for window in voxels.blocks():
        codes, axes, predicted = voxels.codes(window), voxels.axes(window), prediction.read(window)
        connectivity.add(window, codes, axes, predicted)
        if (codes == LEFT_OUT).all():
            continue
        table += confusion(codes, predicted)
        lines = _added(lines, _centreline_counts(prediction, predicted, voxels, (codes, axes), window, truth.known))
    _refuse_mask_read_as_soma(table)
    counts = {group: counts_of(table, group, truth.known) for group in groups}
    return VoxelScore(counts, {group: lines[group] for group in groups if group in lines}, connectivity.runs())


def _refuse_mask_read_as_soma(table: NDArray[np.int64]) -> None:
    """A 0/1 mask read as codes is soma everywhere: seen where nothing else is predicted and a tenth of the neurites or more is."""
    predicted = np.flatnonzero(table.sum(axis=0)[1:]) + 1
    neurites = table[Label.AXON : Label.APICAL_DENDRITE + 1]
    if predicted.tolist() == [Label.SOMA] and 10 * neurites[:, Label.SOMA].sum() > neurites.sum():
        raise NoClassesError("every predicted voxel is 1, soma, on the neurites too: if this is a mask, say --threshold 0")


def _as_mask(prediction: VoxelPrediction) -> VoxelPrediction:
    read = prediction.read
    return replace(prediction, read=lambda window: np.where(read(window) > 0, FOREGROUND, 0).astype(np.uint8), is_mask=True)


def _centreline_counts(
    prediction: VoxelPrediction,
    predicted: NDArray[np.uint8],
    voxels: TruthVoxels,
    codes_and_axes: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    window: Window,
    known: Known,
) -> dict[str, Counts]:
    """A block's part of clDice: true axes that are found, and axes of the prediction that are right."""
    codes, axes = codes_and_axes
    axes = axes & (codes != LEFT_OUT)
    true, seen = codes[axes], predicted[axes]
    lines = _lines(prediction, voxels, window) if predicted.any() else {}
    counts = {}
    for group in CENTRELINE_GROUPS:
        found = counts_of(confusion(true, seen), group, known)
        line = lines.get(group, np.zeros(codes.shape, np.bool_))
        judged = counts_of(confusion(codes[line], predicted[line]), group, known)
        counts[group] = Counts(found.found, found.missed, judged.right, judged.wrong)
    return counts


def _lines(prediction: VoxelPrediction, voxels: TruthVoxels, window: Window) -> dict[str, NDArray[np.bool_]]:
    """The centrelines of what is predicted in a window, by group."""
    wide_window = widened(window, voxels.grid)
    wide, here = prediction.read(wide_window), inner(window, wide_window)
    masks = ((group, in_group(wide, group)) for group in CENTRELINE_GROUPS)
    return {group: thinned(mask)[here] for group, mask in masks if mask[here].any()}


def _added(one: dict[str, Counts], other: dict[str, Counts]) -> dict[str, Counts]:
    names = [*one, *(name for name in other if name not in one)]
    return {name: one.get(name, Counts()) + other.get(name, Counts()) for name in names}


# -------------------------------------------------------------------------------------------------------------------- traces


def score_trace(trace: Skeleton, truth: Truth, tolerance_um: float = paths.TOLERANCE_UM) -> TraceScore:
    """Score a trace in the frame of the stack; true edges that may not be scored count neither way, and so does what lies on them."""
    true_pieces, pieces = paths.pieces_of(truth.skeleton), paths.pieces_of(trace)
    fit, judged = _fit(trace, pieces.middle_um, pieces.owner, truth, true_pieces, tolerance_um)
    length_um = pieces.length_um
    scored_um = np.where(truth.scored[true_pieces.owner], true_pieces.length_um, 0.0)
    found_um = np.where(paths.path_found_um(true_pieces, pieces, tolerance_um) > 0, scored_um, 0.0)
    wrong = judged & ~fit.found & ~fit.exempt
    comparable = bool(judged.any())
    return TraceScore(
        true_um=fsum(scored_um),
        found_um=fsum(found_um),
        right_um=fsum(length_um[judged & fit.found]),
        wrong_um=fsum(length_um[wrong]),
        traced_um=fsum(length_um[fit.found | wrong]) if comparable else 0.0,
        against_um=fsum(scored_um) if comparable else 0.0,
        n_bifurcations_traced=_bifurcations(trace, truth, true_pieces, tolerance_um) if comparable else 0,
        n_bifurcations=_bifurcations(truth.skeleton, truth, true_pieces, tolerance_um) if comparable else 0,
        runs=_runs(trace, truth, tolerance_um),
        distance=_distance(trace, truth, true_pieces, tolerance_um),
    )


def _fit(
    trace: Skeleton, points_um: NDArray[np.float64], owner: NDArray[np.int64], truth: Truth, true_pieces: paths.Pieces, tolerance_um: float
) -> tuple[Fit, NDArray[np.bool_]]:
    """How points of a trace lie to the truth, and which may be judged: their type's absence is known, their surroundings too."""
    fit = paths.fit_of(points_um, true_pieces, truth.scored, tolerance_um)
    codes = np.where(np.isin(trace.type, [1, 2, 3, 4]), trace.type, FOREGROUND)[owner]
    judged = np.isin(codes, sorted(truth.known))
    off = np.flatnonzero(judged & ~fit.found & ~fit.exempt)
    judged[off] = ~np.isin(truth.labels_at(points_um[off]), [Label.UNKNOWN, Label.SOMA])
    return fit, judged


def _bifurcations(trace: Skeleton, truth: Truth, true_pieces: paths.Pieces, tolerance_um: float) -> int:
    node, times = paths.bifurcations(trace)
    fit, judged = _fit(trace, trace.position_zyx_um[node], node, truth, true_pieces, tolerance_um)
    return int(times[fit.found | (judged & ~fit.exempt)].sum())


def _runs(trace: Skeleton, truth: Truth, tolerance_um: float) -> Runs:
    """Run lengths over the edges that may be scored."""
    child = np.flatnonzero(truth.scored & (truth.skeleton.parent != ROOT))
    if not len(child):
        return Runs()
    edges = np.stack([truth.skeleton.parent[child], child], axis=1)
    used, local = np.unique(edges, return_inverse=True)
    segment = paths.tree_of_nodes(truth.skeleton, trace, tolerance_um)
    return run_lengths(local.reshape(-1, 2), truth.skeleton.edge_length_um[child], truth.skeleton.tree[used], segment[used])


def _distance(trace: Skeleton, truth: Truth, true_pieces: paths.Pieces, tolerance_um: float) -> Distance:
    _, true_owner = paths.sampled(truth.skeleton)
    points_um, owner = paths.sampled(trace)
    fit, judged = _fit(trace, points_um, owner, truth, true_pieces, tolerance_um)
    of_truth = _counted_nodes(truth)[true_owner]
    return paths.spatial_distance(truth.skeleton, trace, far_um=tolerance_um, counted=(of_truth, fit.found | (judged & ~fit.exempt)))


def _counted_nodes(truth: Truth) -> NDArray[np.bool_]:
    """The nodes whose edge may be scored, and the roots with a child of that kind or without any child."""
    parent = truth.skeleton.parent
    counted = truth.scored & (parent != ROOT)
    with_scored_child = np.zeros(len(parent), np.bool_)
    with_scored_child[parent[counted]] = True
    result: NDArray[np.bool_] = counted | ((parent == ROOT) & (with_scored_child | (truth.skeleton.n_children == 0)))
    return result
