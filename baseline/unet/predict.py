"""Stage `predict`: label codes of every cell of some sides, as OME-Zarr, above the threshold that is best on one side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import ConfigError
from brightfield.core.space import Window
from brightfield.dataset import CellData, cells
from brightfield.evaluation.truth import Truth, read_truth
from brightfield.evaluation.voxels import NEURITE, in_group
from brightfield.learn.pixels import HOLE_REASONS
from brightfield.volumes.volume import create_volume
from unet.blocks import Image, block_shape, blocks_of, shares
from unet.device import Device
from unet.network import UNet
from unet.settings import Network, Settings, read_settings
from unet.train import MODEL

PREDICTIONS = Path("predictions")
THRESHOLD = Path("threshold.json")
_TOP = 255
_STEPS, _EVEN = 12.0, 64
"""Shares of the neuron are kept as whole steps, 12 to a factor e in the odds, 64 for even odds: networks are sure of most voxels, and the
best threshold is often a share of 0.99 or more."""


@dataclass(frozen=True, eq=False)
class CellShares:
    """A predicted cell: two (z, y, x) uint8.

    neuron: the share of what is not background, in the steps of `steps_of`. kind: the likeliest class.
    """

    cell: CellData
    split: str
    neuron: NDArray[np.uint8]
    kind: NDArray[np.uint8]


def main() -> None:
    """As `dvc.yaml` runs it."""
    settings = read_settings()
    predict(settings, load(MODEL), PREDICTIONS, THRESHOLD)


def load(path: Path) -> UNet:
    """The network that `train.save` wrote. Raises ConfigError for a file that is none."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        network = UNet(Network(**saved["shape"]))
        network.load_state_dict(saved["weights"])
    except (OSError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{path} is not a model of this project ({error}); make it with `dvc repro train`") from error
    return network


def predict(settings: Settings, network: UNet, folder: Path, threshold_file: Path) -> float:
    """Write the codes of every cell of the chosen sides to `folder`; the threshold, which is returned too, to a file."""
    device = Device.of(settings.device, settings.train.threads)
    network = device.moved(network)
    folder.mkdir(parents=True, exist_ok=True)
    with _predicted(settings, network, device, folder.parent) as found:
        threshold, f1 = best_threshold(settings, found)
        for one in found:
            write_codes(one, threshold, folder / f"{one.cell.specimen_id}.zarr")
    share = share_of(threshold)
    threshold_file.write_text(json.dumps({"threshold": share, f"{settings.predict.threshold_side}_f1": f1}, indent=1) + "\n")
    return share


@contextmanager
def _predicted(settings: Settings, network: UNet, device: Device, beside: Path) -> Iterator[list[CellShares]]:
    """All cells of the sides, predicted; what is in between lies on the disk, and is gone afterwards."""
    with TemporaryDirectory(dir=beside, prefix=".predicting-") as scratch:
        found = []
        for side in settings.predict.sides:
            for cell in cells(side, settings.data):
                files = [Path(scratch) / f"{cell.specimen_id}-{name}.npy" for name in ("neuron", "kind")]
                neuron, kind = (np.lib.format.open_memmap(file, "w+", np.uint8, cell.image.shape) for file in files)
                one = CellShares(cell, side, neuron, kind)
                predict_cell(network, one, device, settings)
                found.append(one)
        yield found


def predict_cell(network: UNet, into: CellShares, device: Device, settings: Settings) -> None:
    """Fill in the shares of a cell; where nothing was downloaded they stay 0."""
    shape, background = into.cell.image.shape, background_of(into.cell)
    for window in blocks_of(shape, block_shape(network, settings.predict.block_zyx)):
        if not into.cell.image.read(window).any():
            continue
        found = shares(network, lambda wide: grey_of(into.cell, wide, background), window, shape, device)
        here = tuple(slice(*side) for side in window)
        into.neuron[here] = steps_of(found[0])
        into.kind[here] = found[1:].argmax(axis=0) + 1


def steps_of(background: Image) -> NDArray[np.uint8]:
    """The share of what is not background, from that of background: 1 to 255, evenly in the logarithm of the odds."""
    rest = np.clip(background, np.float32(1e-9), np.float32(1 - 1e-6))
    return np.rint(_EVEN + _STEPS * np.log((1 - rest) / rest)).clip(1, _TOP).astype(np.uint8)


def share_of(steps: int) -> float:
    """The share of what is not background that is kept as these steps."""
    return float(1 / (1 + np.exp((_EVEN - steps) / _STEPS)))


def background_of(cell: CellData) -> float:
    """The median grey value of a cell, 0 to 1, of its coarsest level; voxels without a pixel are left out."""
    grey = cell.image.read(level=len(cell.image.grids) - 1)
    there = grey[grey > 0]
    return float(np.median(there)) / _white(cell) if there.size else 1.0


def grey_of(cell: CellData, window: Window, background: float) -> Image:
    """Grey values of a window, 0 to 1, float32; the background where there is no pixel, as in training."""
    stored = cell.image.read(window)
    grey = stored.astype(np.float32) / np.float32(_white(cell))
    holes = stored == 0
    if holes.any():
        grey[holes & ((cell.reason.read(window) & HOLE_REASONS) > 0)] = background
    return grey


def _white(cell: CellData) -> int:
    return int(np.iinfo(cell.image.dtype).max)


# ------------------------------------------------------------------------------------------------------------------- threshold


def best_threshold(settings: Settings, found: list[CellShares]) -> tuple[int, float]:
    """The steps, 1 to 255, from which on a voxel is predicted, such that F1 of neurites is highest on one side; and that F1."""
    side = settings.predict.threshold_side
    judging = {one.cell.specimen_id: one for one in found if one.split == side}
    hits = np.zeros((3, _TOP + 1), np.int64)
    n_true = 0
    for truth in read_truth(Path(settings.data), sorted(judging)):
        of_cell, n = _hits(truth, judging[truth.specimen_id])
        hits += of_cell
        n_true += n
    found_upto, right, wrong = hits[:, ::-1].cumsum(axis=1)[:, ::-1]
    precision, recall = right / np.maximum(right + wrong, 1), found_upto / max(n_true, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = 1 + int(np.argmax(f1[1:]))
    return best, float(f1[best])


def _hits(truth: Truth, one: CellShares) -> tuple[NDArray[np.int64], int]:
    """(3, 256) voxels by step: true neurites, and of the classes whose absence is known right and wrong ones; and all true voxels."""
    voxels, hits, n_true = truth.on_level(0), np.zeros((3, _TOP + 1), np.int64), 0
    judged = np.isin(np.arange(_TOP + 1), sorted(truth.known))
    for window in voxels.blocks():
        here = tuple(slice(*side) for side in window)
        codes, kind, share = voxels.codes(window), one.kind[here], one.neuron[here]
        true, predicted = in_group(codes, NEURITE), in_group(kind, NEURITE)
        n_true += int(true.sum())
        for row, chosen in enumerate((true & predicted, true & predicted & judged[kind], (codes == 0) & predicted & judged[kind])):
            hits[row] += np.bincount(share[chosen], minlength=_TOP + 1)
    return hits, n_true


def write_codes(one: CellShares, threshold: int, path: Path) -> None:
    """The label codes of a cell, on the grid of its image, as `brightfield evaluate` reads them."""
    spec = one.cell.image.spec(0)
    attributes: dict[str, Any] = {"threshold": share_of(threshold)}
    layout: dict[str, Any] = {"chunk_zyx": spec.chunk_zyx, "shard_zyx": spec.shard_zyx}
    volume = create_volume(path, [one.cell.image.grid], np.uint8, attributes=attributes, **layout)
    for shard in np.ndindex(volume.spec(0).n_shards_zyx):
        index = (shard[0], shard[1], shard[2])
        here = tuple(slice(*side) for side in volume.spec(0).shard_window(index))
        codes = np.where(one.neuron[here] >= threshold, one.kind[here], int(Label.BACKGROUND)).astype(np.uint8)
        volume.write_dense_shard(0, index, codes)


if __name__ == "__main__":
    main()
