"""What a few lines without learning reach: a threshold on absorbance, and on a difference of Gaussians. Scored by the same code.

Both are one filter: stain smoothed a little, less stain smoothed more, above a threshold that gives the best F1 of neurites on the
training cells. What was not downloaded takes no part in the smoothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label, Reason, Split
from brightfield.core.errors import InputError
from brightfield.core.space import Grid, Window
from brightfield.dataset import CellData, manifest, open_cell
from brightfield.evaluation.predictions import VoxelPrediction
from brightfield.evaluation.scoring import CellScore, score_volume
from brightfield.evaluation.thinning import inner, widened
from brightfield.evaluation.truth import Truth, read_truth
from brightfield.evaluation.voxels import FOREGROUND, LEFT_OUT, NEURITE, in_group

_REACH = 3.0
"""Gaussians are cut off at three sigma."""

_N_BINS = 4096
_RANGE = (-2.0, 2.0)
"""Responses are absorbances; beyond this range they count as at its end."""


@dataclass(frozen=True, slots=True)
class StainFilter:
    """Absorbance smoothed with `sigma_um` (0: as it is) less absorbance smoothed with `background_um`."""

    sigma_um: float
    background_um: float


THRESHOLD = (StainFilter(0.0, 5.0),)
"""A threshold on the absorbance above the surroundings."""

DIFFERENCE_OF_GAUSSIANS = tuple(StainFilter(*sigmas) for sigmas in ((0.0, 0.7), (0.0, 1.0), (0.25, 0.7), (0.35, 1.0), (0.35, 1.4)))
"""Of these the one that is best on the training cells is taken; with sigma 0 the microscope's own blur is the finer Gaussian."""

FILTERS = {"threshold": THRESHOLD, "difference of Gaussians": DIFFERENCE_OF_GAUSSIANS}


@dataclass(frozen=True, slots=True)
class Baseline:
    """A filter and its threshold; train_f1: the F1 of neurites on the cells it was chosen on."""

    filter: StainFilter
    threshold: float
    train_f1: float

    def prediction(self, cell: CellData) -> VoxelPrediction:
        """The mask of a cell, computed window by window as it is read."""

        def read(window: Window) -> NDArray[np.uint8]:
            return np.where(response(cell, window, self.filter) > self.threshold, FOREGROUND, 0).astype(np.uint8)

        return VoxelPrediction(read, is_mask=True)


def response(cell: CellData, window: Window, stain: StainFilter) -> NDArray[np.float32]:
    """The filter's response in a window of a cell's finest level, float32: absorbance, 0 where nothing was downloaded.

    The same in every window, up to the rounding of float32.
    """
    wide = widened(window, cell.image.grid, _REACH * max(stain.sigma_um, stain.background_um))
    there = (cell.reason.read(wide) & Reason.NOT_DOWNLOADED) == 0
    white = np.iinfo(cell.image.dtype).max
    absorbance = -np.log(np.maximum(cell.image.read(wide), 1).astype(np.float32) / np.float32(white))
    absorbance[~there] = 0
    fine, coarse = (_smoothed(absorbance, there, sigma, cell.image.grid) for sigma in (stain.sigma_um, stain.background_um))
    result: NDArray[np.float32] = np.where(there, fine - coarse, np.float32(0))[inner(window, wide)]
    return result


def _smoothed(values: NDArray[np.float32], there: NDArray[np.bool_], sigma_um: float, grid: Grid) -> NDArray[np.float32]:
    """Gaussian mean of the values that are there."""
    from scipy.ndimage import gaussian_filter

    if sigma_um == 0:
        return values
    options: dict[str, Any] = {"sigma": np.divide(sigma_um, grid.voxel_size_zyx_um), "mode": "constant", "truncate": _REACH}
    smooth: NDArray[np.float32] = gaussian_filter(values, **options)
    weight = _weight_of_all(there.shape, **options) if there.all() else gaussian_filter(there.astype(np.float32), **options)
    smooth /= np.maximum(weight, np.float32(1e-6))
    return smooth


def _weight_of_all(shape: tuple[int, ...], sigma: Any, **options: Any) -> NDArray[np.float32]:
    """The smoothed ones of a box: a product of what they are along each axis."""
    from scipy.ndimage import gaussian_filter1d

    z, y, x = (gaussian_filter1d(np.ones(n, np.float32), s, **options) for n, s in zip(shape, sigma, strict=True))
    weight: NDArray[np.float32] = z[:, None, None] * y[None, :, None] * x
    return weight


def fit(cells: Sequence[tuple[Truth, CellData]], filters: Iterable[StainFilter]) -> Baseline:
    """The filter and threshold with the highest F1 of neurites over all voxels of the cells.

    Cells with a class whose absence is unknown cannot judge a mask and take no part. Raises InputError where none is left.
    """
    judging = [(truth, cell) for truth, cell in cells if FOREGROUND in truth.known]
    if not judging:
        raise InputError("no training cell is fully traced: nobody can tell what a mask finds too much")
    return max((_best_threshold(judging, stain) for stain in filters), key=lambda baseline: baseline.train_f1)


def _best_threshold(cells: Sequence[tuple[Truth, CellData]], stain: StainFilter) -> Baseline:
    positive, negative = np.zeros(_N_BINS, np.int64), np.zeros(_N_BINS, np.int64)
    for truth, cell in cells:
        voxels = truth.on_level(0)
        for window in voxels.blocks():
            codes = voxels.codes(window)
            counted = (codes != LEFT_OUT) & (codes != Label.SOMA)
            if counted.any():
                bins = _bin_of(response(cell, window, stain))
                neurite = in_group(codes, NEURITE)
                positive += np.bincount(bins[counted & neurite], minlength=_N_BINS)
                negative += np.bincount(bins[counted & ~neurite], minlength=_N_BINS)
    right, wrong = positive[::-1].cumsum()[::-1], negative[::-1].cumsum()[::-1]
    f1 = 2 * right / np.maximum(right + wrong + positive.sum(), 1)
    best = int(np.argmax(f1))
    return Baseline(stain, float(np.linspace(*_RANGE, _N_BINS + 1)[best]), float(f1[best]))


def _bin_of(values: NDArray[np.float32]) -> NDArray[np.int64]:
    low, high = _RANGE
    return ((values - low) * (_N_BINS / (high - low))).astype(np.int64).clip(0, _N_BINS - 1)


def score_baselines(root: Path, sides: Sequence[str] = (Split.VAL, Split.TEST)) -> dict[str, tuple[Baseline, list[CellScore]]]:
    """Every baseline, fitted on the training cells of the dataset at `root`, and its scores on the cells of other sides."""
    splits = manifest(root).set_index("specimen_id")["split"]

    def cells_of(names: Sequence[str]) -> list[tuple[Truth, CellData]]:
        truths = read_truth(root, sorted(int(i) for i in splits.index[splits.isin([str(name) for name in names])]))
        return [(truth, open_cell(truth.specimen_id, root)) for truth in truths]

    training, held_out = cells_of([Split.TRAIN]), cells_of(sides)
    found = {}
    for name, filters in FILTERS.items():
        baseline = fit(training, filters)
        scores = [CellScore(truth.specimen_id, truth.split, score_volume(baseline.prediction(cell), truth)) for truth, cell in held_out]
        found[name] = (baseline, scores)
    return found
