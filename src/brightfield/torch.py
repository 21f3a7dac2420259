"""Patches as PyTorch datasets: `learn.patches` with tensors around it. Needs the extra `learn`.

``PatchDataset`` is map-style, ``StreamDataset`` iterable and by shards, for data that is read from afar. Both come in an order that depends
on the seed and the epoch alone: not on the number of workers, nor on how these are started. Do not shuffle or shard again: that is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brightfield.core.errors import ConfigError
from brightfield.learn.patches import Clock, Patches
from brightfield.learn.samples import Sample
from brightfield.learn.state import State

try:
    import torch
    from torch import distributed
    from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
except ImportError as error:
    raise ImportError("brightfield.torch needs PyTorch: pip install 'brightfield[learn]'") from error

__all__ = ["PatchDataset", "PatchLoader", "StreamDataset"]


class _SharedClock(Clock):
    """A clock in shared memory: workers that live on from epoch to epoch see it move."""

    def __init__(self) -> None:
        self._values = torch.zeros(3, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:  # type: ignore[override]
        """The current epoch."""
        return int(self._values[0])

    @property
    def start(self) -> int:  # type: ignore[override]
        """The first place of it that is left."""
        return int(self._values[1])

    def set(self, epoch: int, start: int) -> None:
        """Go there."""
        self._values.copy_(torch.tensor([epoch, start, 0]))

    @property
    def read_ahead(self) -> bool:
        """Whether workers have read samples of this epoch: more, then, than were handed out."""
        return bool(self._values[2])

    def mark_read_ahead(self) -> None:
        """Say so, in a worker."""
        self._values[2] = 1


class _TensorPatches(Patches):
    """Patches whose rank and world are those of `torch.distributed` where it runs and they are not given."""

    _clock: _SharedClock

    def __init__(self, root: Path | str = ".", split: str = "train", **options: Any) -> None:
        if {"rank", "world"}.isdisjoint(options) and distributed.is_available() and distributed.is_initialized():
            options |= {"rank": distributed.get_rank(), "world": distributed.get_world_size()}
        super().__init__(root, split, **options)

    def state_dict(self, position: int | None = None) -> State:
        """See `Patches`. Raises ConfigError where workers read ahead, so that only the loop knows how many samples it was given."""
        if position is None and self._clock.read_ahead:
            raise ConfigError("workers read ahead: save the state of a PatchLoader, or give the samples seen as state_dict(position)")
        return super().state_dict(position)

    def _make_clock(self) -> _SharedClock:
        return _SharedClock()

    def _tensors(self, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The samples at indices, in order, as tensors."""
        indices = list(indices)
        for index, sample in zip(indices, self._samples(indices), strict=True):
            self._count(index)
            yield self._handed(sample)

    def _handed(self, sample: Sample) -> dict[str, Any]:
        return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in sample.items()}

    def _count(self, index: int) -> None:
        """Count the samples of a pass in this process; in a worker, say that there is one."""
        if get_worker_info() is not None:
            self._clock.mark_read_ahead()
        elif index in (0, self._seen - self._clock.start):
            self._seen = self._clock.start + index + 1


class PatchDataset(_TensorPatches, Dataset[dict[str, Any]]):
    """Map-style: ``dataset[i]`` is the i-th sample of the epoch, tensors by name; arguments as those of `learn.patches.Patches`.

    `set_epoch` before each epoch gives the next order, also in workers that persist; `PatchLoader` does it by itself.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `Patches`: tensors for arrays."""
        return next(self._tensors([index]))

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The samples of a batch: from afar they are fetched at the same time."""
        return list(self._tensors(indices))


class StreamDataset(_TensorPatches, IterableDataset[dict[str, Any]]):
    """Iterable, patches of a shard near each other: for data read with `rev`, or from a slow disk.

    batch_size: that of the DataLoader (1: samples one by one, or no batches). Batch k is made by worker k modulo the number of workers, so
    the order is the same whatever their number. Other arguments as those of `learn.patches.Patches`.
    """

    def __init__(self, root: Path | str = ".", split: str = "train", *, batch_size: int = 1, **options: Any) -> None:
        super().__init__(root, split, **{"by_shard": True, **options})
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """This worker's part of what is left of the epoch; `set_epoch` begins the next one."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._tensors(index for index in range(len(self)) if index // self.batch_size % workers == number)


class PatchLoader(DataLoader[Any]):
    """A DataLoader that knows where it is: `state_dict` in mid-epoch, and each pass is the next epoch.

    dataset: a `PatchDataset` or `StreamDataset`. Other arguments as those of DataLoader, but those that would order samples again.
    """

    def __init__(self, dataset: PatchDataset | StreamDataset, batch_size: int = 1, **options: Any) -> None:
        if clash := sorted({"shuffle", "sampler", "batch_sampler"} & {name for name, value in options.items() if value}):
            raise ConfigError(f"a PatchLoader takes no {clash[0]}: the dataset has its order; give shuffle, draw, rank and world to it")
        if isinstance(dataset, StreamDataset):
            dataset.batch_size = batch_size
        self.patches = dataset
        super().__init__(dataset, batch_size=batch_size, **options)
        self._position = dataset.state_dict()["position"]

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of the epoch; then the next epoch begins."""
        left = len(self.patches)
        self._position = len(self.patches.order) - left
        for batch in super().__iter__():
            step = min(self.batch_size or 1, left)
            left -= step
            self._position += step
            yield batch
        self.patches.set_epoch(self.patches.epoch + 1)
        self._position = 0

    def state_dict(self) -> State:
        """The epoch and the samples that were handed out of it, as plain JSON values."""
        return self.patches.state_dict(self._position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved place: the next pass gives what was left of its epoch."""
        self.patches.load_state_dict(state)
        self._position = int(state["position"])
