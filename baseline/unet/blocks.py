"""A whole cell, block by block: each block is read with as much around it as its voxels depend on, so that no seam can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from brightfield.core.space import Shape, Window
from unet.device import Device
from unet.network import UNet, reach_zyx
from unet.settings import stride_of

type Image = NDArray[np.float32]
type Reader = Callable[[Window], Image]


def blocks_of(shape_zyx: Shape, block_zyx: Shape) -> Iterator[Window]:
    """The boxes that fill a volume, in C order; the last ones of an axis may be smaller."""
    starts = (range(0, n, step) for n, step in zip(shape_zyx, block_zyx, strict=True))
    for corner in product(*starts):
        z, y, x = ((lo, min(lo + step, n)) for lo, step, n in zip(corner, block_zyx, shape_zyx, strict=True))
        yield (z, y, x)


def block_shape(network: UNet, wanted_zyx: Shape) -> Shape:
    """The block size, rounded up to whole voxels of the coarsest level: only then do all blocks pool the same voxels together."""
    z, y, x = (-(-side // step) * step for side, step in zip(wanted_zyx, stride_of(network.shape), strict=True))
    return (z, y, x)


@torch.inference_mode()
def shares(network: UNet, read: Reader, window: Window, shape_zyx: Shape, device: Device) -> Image:
    """(classes, z, y, x) float32: the share of each class in a block whose first corner is a multiple of `stride_of`.

    read: grey values from 0 to 1 of a window of the volume of `shape_zyx` voxels. Equal to what the whole volume at once gives: what is
    read around the block reaches as far as the network does. Voxels at the volume's end are repeated up to the next multiple.
    """
    stride, reach = stride_of(network.shape), reach_zyx(network.shape)
    wide = [(max(lo - r, 0), min(hi + r, n)) for (lo, hi), r, n in zip(window, reach, shape_zyx, strict=True)]
    grey = read((wide[0], wide[1], wide[2]))
    padded = np.pad(grey, [(0, -n % step) for n, step in zip(grey.shape, stride, strict=True)], mode="edge")
    network.eval()
    with device.autocast():
        logits = network(device.moved(torch.from_numpy(padded)[None, None]))
    own = tuple(slice(lo - first, hi - first) for (lo, hi), (first, _) in zip(window, wide, strict=True))
    result: Image = torch.softmax(logits[0][(slice(None), *own)].float(), dim=0).cpu().numpy()
    return result
