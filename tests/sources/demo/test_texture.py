"""Noise and exponentials: accurate, of the right statistics, and the same bits everywhere."""

from __future__ import annotations

from hashlib import sha256
from math import exp as libm_exp

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from brightfield.sources.demo import texture


@given(st.floats(-12, 8))
def test_exp_agrees_with_libm(x: float) -> None:
    assert abs(texture.exp(x) / libm_exp(x) - 1) < 1e-10


def test_exp_and_mixing_have_the_same_bits_as_when_they_were_written() -> None:
    values = np.array([texture.exp(x) for x in np.linspace(-12, 8, 101)])
    assert sha256(values.tobytes()).hexdigest()[:16] == "d4cb2127e6bb3e82"
    assert sha256(texture._white(np.uint64(7), (4, 8, 16)).tobytes()).hexdigest()[:16] == "6f80457c1380fc7e"


def test_white_noise_is_standard_and_uncorrelated() -> None:
    white = texture._white(np.uint64(5), (16, 128, 128)).astype(np.float64)
    assert abs(white.mean()) < 0.01
    assert abs(white.var() - 1) < 0.02
    for axis in range(3):
        assert abs((white * np.roll(white, 1, axis)).mean()) < 0.01


def test_smooth_noise_has_unit_variance_the_asked_correlation_and_no_seam() -> None:
    sigma = 2.0
    noise = texture.smooth_noise(3, (16, 128, 128), (1.0, sigma, sigma)).astype(np.float64)
    assert abs(noise.var() - 1) < 0.1
    for lag in (1, 2, 4):
        expected = libm_exp(-(lag**2) / (4 * sigma**2))
        assert abs((noise * np.roll(noise, lag, 2)).mean() / noise.var() - expected) < 0.05
        assert abs((noise * np.roll(noise, lag, 1)).mean() / noise.var() - expected) < 0.05
    at_seam = np.corrcoef(noise[:, :, 0].ravel(), noise[:, :, -1].ravel())[0, 1]
    assert abs(at_seam - libm_exp(-1 / (4 * sigma**2))) < 0.05


def test_texture_fades_with_the_level_as_averaging_would_have_it() -> None:
    fine, coarse = texture.tissue(0)
    full = (fine[:32, :224, :224].astype(np.float64) + coarse[:32]).reshape(32, 56, 4, 56, 4).mean(axis=(2, 4))
    fine_2, coarse_2 = texture.tissue(2)
    reduced = np.sqrt(fine_2.astype(np.float64).var() + coarse_2.astype(np.float64).var())
    assert abs(reduced / full.std() - 1) < 0.1
