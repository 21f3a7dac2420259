"""Stretches that lie the higher above their stain the deeper they are tell of a scaled z, however small."""

from __future__ import annotations

import numpy as np
import pytest

from brightfield.stages.align.transforms import is_tilted


def measured(slope: float, shift_um: float, seed: int, n: int = 60, noise_um: float = 0.2) -> bool:
    """Stretches at depths of 10 to 35 um, their axial shifts as alignment measures them: in steps of 0.28 um, up to 1.4."""
    random = np.random.default_rng(seed)
    depth = random.uniform(10, 35, n)
    off = np.clip(0.28 * np.rint((shift_um + slope * depth + random.normal(0, noise_um, n)) / 0.28), -1.4, 1.4)
    return is_tilted(depth.tolist(), off.tolist(), random.uniform(10, 20, n).tolist())


@pytest.mark.parametrize("slope", [0.05, -0.05])
def test_a_scaled_z_is_a_slope(slope: float) -> None:
    """Larger ones lie beyond the search at most depths: such a cell is not of grade A."""
    assert all(measured(slope, 0.0, seed) for seed in range(20))


@pytest.mark.parametrize("shift_um", [0.0, 0.2, -1.0, 3.0])
def test_a_shift_and_chance_are_none(shift_um: float) -> None:
    assert not any(measured(0.0, shift_um, seed, noise_um=0.4) for seed in range(50))


def test_a_few_stretches_or_none_say_nothing() -> None:
    assert not measured(0.1, 0.0, 1, n=8)
    assert not is_tilted([], [], [])
    assert not is_tilted([20.0] * 30, [0.3] * 30, [15.0] * 30)
