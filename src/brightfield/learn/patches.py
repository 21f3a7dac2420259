"""Training patches of a finished dataset, as numpy arrays: a sequence in the order of the epoch, that can be left and resumed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.space import Window
from brightfield.learn.ahead import Lock, ahead
from brightfield.learn.augment import Augment, Plan
from brightfield.learn.cells import LearnCell
from brightfield.learn.files import Files, LocalFiles, RemoteFiles
from brightfield.learn.order import Draw, Order, Share
from brightfield.learn.pixels import Scale
from brightfield.learn.rows import read_rows
from brightfield.learn.samples import Recipe, Sample, make_sample
from brightfield.learn.state import State, restored, saved
from brightfield.learn.targets import Target
from brightfield.volumes.rangecache import RangeCache

_OPENING = Lock()


def patches(root: Path | str = ".", split: str = "train", **options: Any) -> Patches:
    """The training patches of one side (train, val, test) of the dataset at `root`, as numpy arrays, in an order that can be repeated.

    A sequence of samples: dicts of ``image`` (1, z, y, x) float32, ``mask`` (z, y, x) bool, True where labels are known, each target by its
    name, ``absent`` (4,) bool, ``specimen_id`` and ``patch``. ``absent`` says of soma, axon, basal and apical whether a voxel that is not
    labelled so is of no such class; where False (the axon of a dendrite-only cell), it may be. Options, by keyword:

    - rev: read this git revision from the DVC remote; cache: a folder that keeps what was read of it, of about cache_gb.
    - size: (z, y, x) voxels about the centres of the patches, instead of their boxes.
    - targets: names of `learn.targets.TARGETS`, or targets with other numbers; default ``("semantic",)``.
    - scale: ``stain`` (default: bright is stain, 0 to 1), ``grey`` or ``absorbance``. augment: True, or an `learn.augment.Augment`.
    - fold: cross-validation fold. kinds: only patches of these. max_ignored: only patches of which at most this share is unknown.
    - draw: ``each`` patch once an epoch (default), by ``weight``, or by ``class``: the same share for each. shuffle: train only.
    - seed; rank and world: this process of a distributed training. by_shard: patches of one shard near each other.

    Raises ConfigError for an option that makes no sense, TableError or SourceError where there are no such patches.
    """
    return Patches(root, split, **options)


class Clock:
    """The epoch, and the place in it at which one starts."""

    def __init__(self) -> None:
        self.epoch, self.start = 0, 0

    def set(self, epoch: int, start: int) -> None:
        """Go there."""
        self.epoch, self.start = epoch, start


class Patches:
    """The patches of one side of a dataset, in the order of the current epoch; `brightfield.patches` makes one.

    ``patches[i]`` is the i-th sample of the epoch: a dict of ``image`` (1, z, y, x) float32, ``mask`` (z, y, x) bool that is True where
    labels are known, each target by its name, ``absent`` (see `patches`), and ``specimen_id`` and ``patch``, the key of the row in
    `schema.PATCHES`. It depends on the seed, the epoch and i alone. Iterating gives them in order and ends by going on to the next epoch.
    """

    def __init__(
        self,
        root: Path | str = ".",
        split: str = "train",
        *,
        rev: str | None = None,
        cache: Path | str | None = None,
        cache_gb: float = 10.0,
        size: Iterable[int] | None = None,
        targets: Iterable[str | Target] = ("semantic",),
        scale: Scale = "stain",
        augment: Augment | bool | None = None,
        fold: int | None = None,
        kinds: Collection[str] | None = None,
        max_ignored: float = 1.0,
        draw: Draw = "each",
        shuffle: bool | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        by_shard: bool = False,
    ) -> None:
        self.recipe = Recipe.of(size, targets, scale, augment)
        self._files = _files_of(root, rev, cache, cache_gb)
        self.rows = read_rows(self._files, split, fold=fold, kinds=kinds, max_ignored=max_ignored)
        self._cells: dict[int, LearnCell] = {}
        self._process = os.getpid()
        shuffled = split == "train" if shuffle is None else shuffle
        self.order = Order(self.rows, seed, draw, shuffled, Share(rank, world), self._shards() if by_shard else None)
        self._clock: Clock = self._make_clock()
        self._seen = 0
        self._epoch_order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Samples that are left of the epoch: all of them, unless one resumed in mid-epoch."""
        return len(self.order) - self._clock.start

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index` of what is left of the epoch."""
        place, row = self._at(index)
        cell, window = self._window(row)
        plan = self.recipe.plan(self.order.seed, self._clock.epoch, place, cell.grid, window)
        sample = make_sample(cell, window, plan, self.recipe)
        sample["absent"] = self.rows.absent[row].copy()
        return {**sample, "specimen_id": int(self.rows.specimen_id[row]), "patch": int(self.rows.patch[row])}

    def __iter__(self) -> Iterator[Sample]:
        """The samples that are left of the epoch; then the epoch is over, and the next one begins."""
        start = self._clock.start
        for index, sample in enumerate(self._samples(range(len(self)))):
            self._seen = start + index + 1
            yield self._handed(sample)
        self.set_epoch(self._clock.epoch + 1)

    def _samples(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples at indices, in order; several at a time where each has to be waited for."""
        make = partial(Patches.__getitem__, self)
        return ahead(make, indices) if isinstance(self._files, RemoteFiles) else map(make, indices)

    def _handed(self, sample: Sample) -> Any:
        """A sample as it is handed out."""
        return sample

    def plan(self, index: int) -> Plan:
        """What augmentation does to the sample at `index`."""
        place, row = self._at(index)
        cell, window = self._window(row)
        return self.recipe.plan(self.order.seed, self._clock.epoch, place, cell.grid, window)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: another order, other augmentation."""
        self._clock.set(int(epoch), 0)
        self._seen = 0

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self._clock.epoch

    def state_dict(self, position: int | None = None) -> State:
        """Where one is, as plain JSON values: the epoch, and the samples seen of it (`position` where somebody else counted them)."""
        return saved(self._clock.epoch, self._seen if position is None else position, self.order.facts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved place. Raises ConfigError where the state is of patches made with other arguments."""
        epoch, position = restored(state, len(self.order), self.order.facts())
        self._clock.set(epoch, position)
        self._seen = position

    def __getstate__(self) -> dict[str, Any]:
        """For another process: it opens the cells itself."""
        return {**self.__dict__, "_cells": {}, "_epoch_order": None}

    def _make_clock(self) -> Clock:
        return Clock()

    def _at(self, index: int) -> tuple[int, int]:
        """Place in the epoch of all ranks, and row, of what is at `index`."""
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"{n} samples are left of epoch {self._clock.epoch}, asked for number {index}")
        place, row = self._order_now()[self._clock.start + index % n].tolist()
        return place, row

    def _order_now(self) -> NDArray[np.int64]:
        epoch = self._clock.epoch
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            self._epoch_order = (epoch, self.order.of_epoch(epoch))
        return self._epoch_order[1]

    def _window(self, row: int) -> tuple[LearnCell, Window]:
        cell = self._cell(int(self.rows.specimen_id[row]))
        return cell, self.recipe.window(self.rows.box[row], cell)

    def _cell(self, specimen_id: int) -> LearnCell:
        """The cell, kept open. Connections to a remote do not outlive a fork, files do."""
        with _OPENING:
            if isinstance(self._files, RemoteFiles) and self._process != os.getpid():
                self._cells, self._process = {}, os.getpid()
            if specimen_id not in self._cells:
                self._cells[specimen_id] = LearnCell(self._files, specimen_id)
            return self._cells[specimen_id]

    def _shards(self) -> NDArray[np.int64]:
        """(n,) number of the shard that holds the centre of each patch; all cells of a dataset are cut alike."""
        shard_zyx = self._cell(int(self.rows.specimen_id[0])).shard_zyx
        place = self.rows.box.mean(axis=2).astype(np.int64) // shard_zyx
        key = np.concatenate([self.rows.specimen_id[:, None], place], axis=1)
        return np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)


def _files_of(root: Path | str, rev: str | None, cache: Path | str | None, cache_gb: float) -> Files:
    if rev is None:
        return LocalFiles(root)
    return RemoteFiles(root, rev, None if cache is None else RangeCache(Path(cache).expanduser(), int(cache_gb * 1e9)))
