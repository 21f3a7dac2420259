"""The filters against plain convolution, the threshold against all thresholds, and what pixels that nobody has may change: nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import GRID, knowing_all, make_truth, neuron, write_zarr

from brightfield.core.errors import InputError
from brightfield.core.layout import image_store, label_store
from brightfield.dataset import CellData, open_cell
from brightfield.evaluation import baselines
from brightfield.evaluation.baselines import StainFilter, fit, response, score_baselines
from brightfield.evaluation.scoring import score_volume
from brightfield.evaluation.truth import Truth
from brightfield.evaluation.voxels import NEURITE
from brightfield.testing.dataset import make_dataset
from brightfield.testing.grids import stain

DOG = StainFilter(0.5, 1.0)


def make_cell(root: Path, *, holes: int = 0) -> tuple[Truth, CellData]:
    """A stained neuron with its labels; `holes` fills what was not downloaded."""
    boxes = np.array([[0, 24, 0, 96, 0, 140]], np.int64)
    truth = knowing_all(make_truth(root, neuron(), downloaded=boxes))
    image = stain(neuron(), GRID)
    image[:, :, 140:] = holes
    (root / "data" / "labels").mkdir(parents=True)
    (root / "labels.zarr").rename(root / label_store(1))
    write_zarr(root / image_store(1), image, GRID)
    cell = open_cell(1, root)
    cell.labels.attributes.update(truth.labels.attributes)
    return Truth(1, "train", truth.skeleton, truth.scored, cell.labels), cell


@pytest.fixture(scope="module")
def stained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, CellData]:
    return make_cell(tmp_path_factory.mktemp("stained"))


def kernel(sigma_um: float, size_um: float) -> np.ndarray:
    n = int(3.0 * sigma_um / size_um + 0.5)
    weights = np.exp(-0.5 * (np.arange(-n, n + 1) * size_um / sigma_um) ** 2)
    return weights / weights.sum()


def slow_mean(values: np.ndarray, there: np.ndarray, sigma_um: float, at: tuple[int, int, int]) -> float:
    """The Gaussian mean around one voxel, voxel by voxel."""
    kernels = [kernel(sigma_um, size) for size in GRID.voxel_size_zyx_um]
    total = weight = 0.0
    for offset in np.ndindex(*(len(k) for k in kernels)):
        place = tuple(a + o - len(k) // 2 for a, o, k in zip(at, offset, kernels, strict=True))
        if all(0 <= p < n for p, n in zip(place, values.shape, strict=True)) and there[place]:
            w = np.prod([k[o] for k, o in zip(kernels, offset, strict=True)])
            total, weight = total + w * values[place], weight + w
    return total / weight


@pytest.mark.parametrize("at", [(0, 0, 0), (12, 48, 80), (12, 20, 139), (23, 95, 100)])
def test_the_response_is_the_difference_of_two_gaussian_means_of_absorbance(
    stained: tuple[Truth, CellData], at: tuple[int, int, int]
) -> None:
    _, cell = stained
    there = np.ones(GRID.shape_zyx, bool)
    there[:, :, 140:] = False
    absorbance = -np.log(np.maximum(cell.image.read(), 1) / 255.0)
    expected = slow_mean(absorbance, there, 0.5, at) - slow_mean(absorbance, there, 1.0, at)
    assert response(cell, GRID.window, DOG)[at] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("window", [((0, 8), (0, 96), (0, 160)), ((5, 20), (30, 60), (100, 160)), ((23, 24), (0, 1), (139, 140))])
@pytest.mark.parametrize("chosen", [DOG, StainFilter(0.0, 2.0)])
def test_a_window_has_the_response_of_the_whole(stained: tuple[Truth, CellData], window: tuple, chosen: StainFilter) -> None:
    _, cell = stained
    whole = response(cell, GRID.window, chosen)
    assert response(cell, window, chosen) == pytest.approx(whole[tuple(slice(*side) for side in window)], abs=1e-5)


def test_pixels_that_were_not_downloaded_change_nothing(stained: tuple[Truth, CellData], tmp_path: Path) -> None:
    _, other = make_cell(tmp_path, holes=200)
    responses = [response(cell, GRID.window, DOG) for cell in (stained[1], other)]
    assert (responses[0] == responses[1]).all()
    assert (responses[0][:, :, 140:] == 0).all()


def test_the_threshold_is_the_best_of_all(stained: tuple[Truth, CellData]) -> None:
    truth, cell = stained
    best = fit([stained], [DOG])
    assert score_volume(best.prediction(cell), truth).voxels[NEURITE].f1 == pytest.approx(best.train_f1, abs=1e-3)
    values = response(cell, GRID.window, DOG)
    for threshold in np.quantile(values, np.linspace(0.9, 0.999, 15)):
        other = baselines.Baseline(DOG, float(threshold), 0.0)
        assert (score_volume(other.prediction(cell), truth).voxels[NEURITE].f1 or 0.0) <= best.train_f1 + 1e-3


def test_the_best_filter_is_taken(stained: tuple[Truth, CellData]) -> None:
    alone = [fit([stained], [stain_filter]) for stain_filter in baselines.DIFFERENCE_OF_GAUSSIANS]
    assert fit([stained], baselines.DIFFERENCE_OF_GAUSSIANS) == max(alone, key=lambda baseline: baseline.train_f1)
    assert fit([stained], baselines.DIFFERENCE_OF_GAUSSIANS).train_f1 > 0.6


def test_cells_that_cannot_judge_a_mask_are_not_trained_on(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    with pytest.raises(InputError, match="no training cell is fully traced"):
        score_baselines(tmp_path)
