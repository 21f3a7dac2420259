"""Noise and exponentials that are the same bits on every machine.

Everything here is made of integer mixing and of IEEE ``+ - * / sqrt``, compiled without fast-math (so nothing is fused or reordered), and
never of libm or SIMD transcendentals, whose last bit differs between processors. Rendered stacks are hashed and compared, so this matters.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from threading import Lock

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.portable import exp

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STRIDE_Z = np.uint64(0xD6E8FEB86659FD93)
_STRIDE_Y = np.uint64(0xA0761D6478BD642F)
_STRIDE_X = np.uint64(0xE7037ED1A0B428DB)
_LANE = np.uint64(0xFFFF)
_LANE_MEAN = 4 * 65535 / 2
_LANE_SD = sqrt(4 * (65536.0**2 - 1) / 12)


@njit(cache=True, nogil=True)
def mix(seed: np.uint64, z: int, y: int, x: int) -> np.uint64:
    """64 well-mixed bits of a seed and three integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    h = np.uint64(seed) + np.uint64(z) * _STRIDE_Z + np.uint64(y) * _STRIDE_Y + np.uint64(x) * _STRIDE_X + _GOLDEN
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit(cache=True, nogil=True)
def uniform(bits: np.uint64) -> float:
    """A number in [0, 1) of 53 of the bits."""
    return np.int64(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True)
def normal(bits: np.uint64) -> float:
    """Nearly normal, mean 0 and variance 1: the sum of the four 16-bit lanes (tails end at 3.46)."""
    lanes = (bits & _LANE) + ((bits >> np.uint64(16)) & _LANE) + ((bits >> np.uint64(32)) & _LANE) + (bits >> np.uint64(48))
    return (np.int64(lanes) - _LANE_MEAN) / _LANE_SD


@njit(cache=True, nogil=True)
def _white(seed: np.uint64, shape_zyx: tuple[int, int, int]) -> NDArray[np.float32]:
    tile = np.empty(shape_zyx, np.float32)
    for z in range(shape_zyx[0]):
        for y in range(shape_zyx[1]):
            for x in range(shape_zyx[2]):
                tile[z, y, x] = normal(mix(seed, z, y, x))
    return tile


@njit(cache=True, nogil=True)
def gaussian_weights(sigma: float) -> NDArray[np.float64]:
    """Gaussian taps from -3 sigma to 3 sigma, of unit ENERGY, so that filtered white noise keeps its variance."""
    half = int(np.ceil(3.0 * sigma))
    weights = np.ones(2 * half + 1, np.float64)
    energy = 1.0
    for i in range(1, half + 1):
        weights[half - i] = weights[half + i] = exp(-0.5 * (i / sigma) * (i / sigma))
        energy += 2.0 * weights[half + i] * weights[half + i]
    normalised: NDArray[np.float64] = weights / np.sqrt(energy)
    return normalised


@njit(cache=True, nogil=True)
def _filter_rows(tile: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    """Filter axis 1 of (a, n, m) periodically; every output is summed in the order of the taps."""
    n_outer, n, n_inner = tile.shape
    out = np.empty_like(tile)
    row = np.empty(n_inner, np.float64)
    half = len(weights) // 2
    for a in range(n_outer):
        for i in range(n):
            row[:] = 0.0
            for k in range(len(weights)):
                source = tile[a, (i + k - half) % n]
                w = weights[k]
                for j in range(n_inner):
                    row[j] += w * source[j]
            out[a, i] = row
    return out


def smooth_noise(seed: int, shape_zyx: tuple[int, int, int], sigma_zyx: tuple[float, float, float]) -> NDArray[np.float32]:
    """A periodic Gaussian random field of mean 0 and variance 1 (float32): white noise smoothed by `sigma_zyx` voxels."""
    n_z, n_y, n_x = shape_zyx
    tile = _white(np.uint64(seed), shape_zyx)
    tile = _filter_rows(tile.reshape(1, n_z, n_y * n_x), gaussian_weights(sigma_zyx[0])).reshape(shape_zyx)
    tile = _filter_rows(tile, gaussian_weights(sigma_zyx[1]))
    flat = np.ascontiguousarray(tile.transpose(0, 2, 1))
    return np.ascontiguousarray(_filter_rows(flat, gaussian_weights(sigma_zyx[2])).transpose(0, 2, 1))


# (standard deviation in grey values, sigma in full-resolution pixels, sigma in planes): fitted to the autocorrelation of a real 63x stack,
# see tests/sources/demo/test_rendering.py. What a pixel has for itself is the camera's noise.
_FINE = ((1.50, 1.05, 0.65),)
_COARSE = ((1.50, 3.5, 2.5), (1.20, 14.0, 8.0))
_FINE_SHAPE_ZYX = (32, 256, 256)
_COARSE_SHAPE_ZYX = (40, 224, 224)
_lock = Lock()


def tissue(level: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two periodic tiles of tissue texture at a level, in grey values at a background of 189.

    Their periods differ, so their sum repeats only after many of both. Averaging 2**level pixels is a box filter of variance
    (4**level - 1) / 12 pixels: it widens each Gaussian component and lowers its variance accordingly.
    """
    with _lock:
        return _tissue(level)


@lru_cache(maxsize=7)
def _tissue(level: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    fine = _components(1, _FINE_SHAPE_ZYX, _FINE, level)
    coarse = _components(2, _COARSE_SHAPE_ZYX, _COARSE, level)
    fine.setflags(write=False)
    coarse.setflags(write=False)
    return fine, coarse


def _components(
    seed: int, shape_zyx: tuple[int, int, int], components: tuple[tuple[float, float, float], ...], level: int
) -> NDArray[np.float32]:
    total = np.zeros(shape_zyx, np.float32)
    for number, (sd, sigma_px, sigma_planes) in enumerate(components):
        widened = sigma_px**2 + (4**level - 1) / 12
        amplitude = sd * sqrt(sigma_px**2 / widened)
        sigma = max(sqrt(widened) / 2**level, 0.3)
        total += np.float32(amplitude) * smooth_noise(1000 * seed + 10 * level + number, shape_zyx, (sigma_planes, sigma, sigma))
    return total
