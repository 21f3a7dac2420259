"""Arithmetic whose bits are the same on every machine: IEEE ``+ - * /`` only, compiled without fast-math, never libm."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def exp(x: float) -> float:
    """e**x for -12 <= x <= 8 to 1e-10 relative: a Taylor polynomial of x / 64, squared six times."""
    t = x * (1.0 / 64.0)
    p = 1.0 + t * (1.0 / 8.0)
    p = 1.0 + t * (1.0 / 7.0) * p
    p = 1.0 + t * (1.0 / 6.0) * p
    p = 1.0 + t * (1.0 / 5.0) * p
    p = 1.0 + t * (1.0 / 4.0) * p
    p = 1.0 + t * (1.0 / 3.0) * p
    p = 1.0 + t * (1.0 / 2.0) * p
    p = 1.0 + t * p
    for _ in range(5):
        p *= p
    return p * p
