"""A 3D U-Net whose kernels and pools differ along z: planes are farther apart than pixels are wide."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from brightfield.core.codes import Label
from unet.settings import Network, stride_of

N_CLASSES = max(label for label in Label if label != Label.UNKNOWN) + 1
"""Background, and the classes of a voxel."""

_DARKEST = 1 / 256
_ABSORBANCE_SCALE = 10.0
"""Absorbances of neurites are tenths or less; networks start best with numbers about 1."""

_START = 4.0
"""The logit of background before the first step: nearly all of a stack is background."""


class UNet(nn.Module):
    """Grey values (n, 1, z, y, x), 0 black to 1 white, to logits (n, `N_CLASSES`, z, y, x). Sides are multiples of `stride_of`.

    Nothing in it depends on the size of what it is given (no normalization by sample, no position), so that a voxel farther than
    `reach_zyx` from the edge gets the same logits in every box that holds it.
    """

    def __init__(self, shape: Network) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.channels
        first = _convolutions(1, widths[0], shape.kernel_zyx[0], 1)
        deeper = [_convolutions(a, b, kernel, 2) for (a, b), kernel in zip(pairwise(widths), shape.kernel_zyx[1:], strict=True)]
        self.down = nn.ModuleList([first, *deeper])
        self.up = nn.ModuleList(
            _convolutions(a + b, a, kernel, 1) for (a, b), kernel in zip(pairwise(widths), shape.kernel_zyx, strict=False)
        )
        self.head = nn.Conv3d(widths[0], N_CLASSES, 1)
        with torch.no_grad():
            self.head.bias[0] = _START  # type: ignore[index]  # a head with a bias

    def forward(self, grey: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(grey.device.type, enabled=False):
            features, skipped = stain(grey, self.shape.surroundings_px), []
        for level, block in enumerate(self.down):
            if level:
                skipped.append(features)
                features = functional.max_pool3d(features, self.shape.pool_zyx[level - 1])
            features = block(features)
        for level in reversed(range(len(self.up))):
            factor = tuple(float(side) for side in self.shape.pool_zyx[level])
            wide = functional.interpolate(features, scale_factor=factor, mode="nearest")
            features = self.up[level](torch.cat([skipped.pop(), wide], dim=1))
        logits: Tensor = self.head(features)
        return logits


def stain(grey: Tensor, surroundings_px: int) -> Tensor:
    """Absorbance above the mean of its surroundings in the plane, (n, 1, z, y, x): uneven light and thick tissue fall out."""
    absorbance = -torch.log(grey.clamp_min(_DARKEST))
    reach = min(surroundings_px // 2, (min(grey.shape[-2:]) - 1) // 2)  # PyTorch averages no square that is wider than the image
    size, padding = (1, 2 * reach + 1, 2 * reach + 1), (0, reach, reach)
    around = functional.avg_pool3d(absorbance, size, stride=1, padding=padding, count_include_pad=False)
    return (absorbance - around) * _ABSORBANCE_SCALE


def reach_zyx(shape: Network) -> tuple[int, int, int]:
    """Voxels (z, y, x) around a voxel that its logits may depend on, rounded up to whole voxels of the coarsest level."""
    reach, size = [0, shape.surroundings_px // 2, shape.surroundings_px // 2], [1, 1, 1]
    for level, kernel in enumerate(shape.kernel_zyx):
        is_last = level == len(shape.pool_zyx)
        convolutions = (1 if level == 0 else 2) + (0 if is_last else 1)  # on the way down, and on the way up
        pool = (1, 1, 1) if is_last else shape.pool_zyx[level]
        for axis in range(3):
            # Pooling and its inverse see whole voxels of the next level: up to pool - 1 more on either side, each.
            reach[axis] += size[axis] * (convolutions * (kernel[axis] // 2) + 2 * (pool[axis] - 1))
            size[axis] *= pool[axis]
    z, y, x = (-(-side // step) * step for side, step in zip(reach, stride_of(shape), strict=True))
    return (z, y, x)


def _convolutions(n_in: int, n_out: int, kernel: Sequence[int], times: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    padding = tuple(side // 2 for side in kernel)
    for _ in range(times):
        layers += [nn.Conv3d(n_in, n_out, tuple(kernel), padding=padding, bias=False), nn.BatchNorm3d(n_out), nn.ReLU(inplace=True)]
        n_in = n_out
    return nn.Sequential(*layers)
