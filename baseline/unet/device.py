"""Where it runs: the same code on the CPU and on a GPU, in mixed precision where the hardware multiplies bfloat16 or float16.

On the CPU of one machine a seed gives the same bits every time; other machines, and GPUs, round otherwise.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Device:
    """name: cpu or cuda. half: the type of mixed precision; None: float32 throughout. workers: processes that load patches."""

    name: str
    half: torch.dtype | None
    workers: int

    @classmethod
    def of(cls, wanted: str, threads: int) -> Device:
        """`wanted` is auto, cpu or cuda; sets the threads of the CPU."""
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
            return cls("cpu", torch.bfloat16 if _cpu_has_bfloat16() else None, 0)
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return cls("cuda", half, min(4, os.cpu_count() or 1))

    def moved[T: (torch.Tensor, nn.Module)](self, what: T) -> T:
        """On the device, in the layout of memory that convolutions are fastest with."""
        return what.to(self.name, memory_format=torch.channels_last_3d)

    def autocast(self) -> AbstractContextManager[object]:
        """The context for forward passes."""
        context: AbstractContextManager[object] = torch.autocast(self.name, self.half, enabled=self.half is not None)
        return context

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients of float16; does nothing otherwise."""
        return torch.amp.GradScaler(self.name, enabled=self.half is torch.float16)


def _cpu_has_bfloat16() -> bool:
    """Whether convolutions in bfloat16 are faster than in float32, and not emulated."""
    return bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001  (PyTorch has no public name for it)
