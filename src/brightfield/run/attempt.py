"""One attempt at a cell, and how it is told to whoever shares out the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from brightfield.core.errors import BrightfieldError

THREAD_LIMITS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
"""Environment variables that bound the threads of a worker."""

type Tasks = Mapping[int, tuple[Any, ...]]
"""The arguments of each cell, by specimen id."""

type Event = tuple[int, bool, Any]
"""Specimen id, whether it is a result, the result or the reason."""


def attempt(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, Any]:
    """("ok", result), ("failed", reason), or ("again", reason) where another attempt may succeed."""
    try:
        return "ok", function(*args)
    except BrightfieldError as error:
        return "failed", str(error)
    except (MemoryError, OSError) as error:
        return "again", f"{type(error).__name__}: {error}"
    except Exception as error:  # a cell's bug must not take the others along
        return "failed", f"{type(error).__name__}: {error} ({_place(error)})"


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "no traceback" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
