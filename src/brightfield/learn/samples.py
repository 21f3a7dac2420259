"""One sample: a window of a cell, read, augmented by its plan, with the targets that were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label, Reason
from brightfield.core.errors import ConfigError, GridError
from brightfield.core.space import Grid, Shape, Window
from brightfield.learn import pixels
from brightfield.learn.augment import Augment, Plan, no_change
from brightfield.learn.cells import Graph, LearnCell
from brightfield.learn.pixels import Image, Scale
from brightfield.learn.targets import Scene, Target, as_targets, draw_codes
from brightfield.learn.warp import nearest, resampled, source_window

type Sample = dict[str, NDArray[Any] | int]

_UNKNOWN = int(Label.UNKNOWN)
_STRONGER_THAN_TUBES = int(Reason.MISREGISTERED | Reason.BAD_PLANE | Reason.NOT_DOWNLOADED)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How samples are made, whatever patch they are of.

    size_zyx: voxels, about the centre of each patch; None: the patch as the table has it. targets: names or targets, see `targets`.
    scale: what the image holds, see `pixels.SCALES`. augment: None leaves patches as they are.
    """

    size_zyx: Shape | None = None
    targets: tuple[Target, ...] = ()
    scale: Scale = "stain"
    augment: Augment | None = None

    def __post_init__(self) -> None:
        pixels.check_scale(self.scale)
        if self.size_zyx is not None and (len(self.size_zyx) != 3 or min(self.size_zyx) < 1):
            raise ConfigError(f"size is (z, y, x) in voxels, each from 1 on, found {self.size_zyx}")

    @classmethod
    def of(cls, size: Iterable[int] | None, targets: Iterable[str | Target], scale: Scale, augment: Augment | bool | None) -> Recipe:
        """From what users write: names of targets, True for the default augmentation."""
        shape = None if size is None else tuple(int(n) for n in size)
        augment = Augment() if augment is True else augment or None
        return cls(shape, as_targets(targets), scale, augment)  # type: ignore[arg-type]

    def window(self, box: NDArray[np.int64], cell: LearnCell) -> Window:
        """The voxels that are read for a patch, moved into the cell. Raises GridError where the cell is smaller than that."""
        if self.size_zyx is None:
            (z0, z1), (y0, y1), (x0, x1) = box.tolist()
            return ((z0, z1), (y0, y1), (x0, x1))
        low, high = box.T
        limit = np.array(cell.grid.shape_zyx) - self.size_zyx
        if (limit < 0).any():
            raise GridError(f"cell {cell.specimen_id} has {cell.grid.shape_zyx} voxels, a sample {self.size_zyx}; choose a smaller size")
        first = np.clip(low + (high - low) // 2 - np.array(self.size_zyx) // 2, 0, limit).tolist()
        z, y, x = ((a, a + n) for a, n in zip(first, self.size_zyx, strict=True))
        return (z, y, x)

    def plan(self, seed: int, epoch: int, index: int, grid: Grid, window: Window) -> Plan:
        """What augmentation does to the patch at a place of an epoch."""
        return no_change(grid, window) if self.augment is None else self.augment.plan(seed, epoch, index, grid, window)

    @property
    def reach_um(self) -> float:
        """How far around a patch its graph matters."""
        return max((target.reach_um() for target in self.targets), default=0.0)


def make_sample(cell: LearnCell, window: Window, plan: Plan, recipe: Recipe) -> Sample:
    """Image (1, z, y, x) float32, mask (z, y, x) bool (True where labels are known), and every target by its name."""
    image, scene = _warped(cell, window, plan, recipe) if plan.warp else _straight(cell, window, plan, recipe)
    if plan.missing_plane is not None:
        scene.codes[plan.missing_plane] = _UNKNOWN
    sample: Sample = {
        "image": np.ascontiguousarray(plan.turn.apply(image)[None]),
        "mask": np.ascontiguousarray(plan.turn.apply(scene.codes != _UNKNOWN)),
    }
    for target in recipe.targets:
        turned = target.turned(target.draw(scene), plan.turn)
        sample[target.name] = np.ascontiguousarray(target.finish(turned))
    return sample


def _straight(cell: LearnCell, window: Window, plan: Plan, recipe: Recipe) -> tuple[Image, Scene]:
    """A patch as it lies in the cell."""
    grey, codes = cell.image(window), read_codes(cell, window)
    _fill_holes(cell, window, grey, codes)
    if recipe.augment is None and recipe.scale == "stain":
        image = pixels.stain(grey)
    else:
        background = pixels.background_of(grey) if plan.gain != 1.0 else 0.0
        image = pixels.finished(pixels.brightened(pixels.scaled(grey, plan.gain, background), plan, cell.grid), recipe.scale)
    return image, Scene(_graph(cell, window, recipe), cell.grid, window, codes, cell.rules)


def _warped(cell: LearnCell, window: Window, plan: Plan, recipe: Recipe) -> tuple[Image, Scene]:
    """A deformed patch: pixels are resampled, tubes drawn anew, and what is unknown is taken from the nearest voxel."""
    grid = plan.warp.grid(cell.grid, window)
    source = plan.warp.source(grid, cell.grid)
    wide = source_window(source, window[0], cell.grid)
    grey, codes = cell.image(wide), read_codes(cell, wide)
    _fill_holes(cell, wide, grey, codes)
    background = pixels.background_of(grey)
    white = float(np.iinfo(grey.dtype).max)
    image = resampled(pixels.scaled(grey, plan.gain, background), source, wide, background / white)
    image = pixels.finished(pixels.brightened(image, plan, grid), recipe.scale)
    scene = Scene(plan.warp.graph(cell.graph.near(cell.grid, wide, recipe.reach_um)), grid, grid.window, codes, cell.rules)
    near = nearest(codes, source, wide, _UNKNOWN)
    reasons = nearest(cell.reasons(wide), source, wide, int(Reason.NOT_DOWNLOADED))
    scene.codes = _settled(draw_codes(scene), near, reasons)
    return image, scene


def read_codes(cell: LearnCell, window: Window) -> NDArray[np.uint8]:
    """Class codes of a window, 255 where unknown: the stored labels, or drawn where those are of another kind."""
    stored: NDArray[np.uint8] = cell.codes(window)
    if cell.rules.kind == "semantic":
        return stored
    drawn = draw_codes(Scene(cell.graph.near(cell.grid, window, 0.0), cell.grid, window, stored, cell.rules))
    drawn[stored == _UNKNOWN] = _UNKNOWN
    return drawn


def _fill_holes(cell: LearnCell, window: Window, grey: NDArray[Any], codes: NDArray[np.uint8]) -> None:
    """Give voxels without a pixel the local background; reasons are read only where there may be any."""
    holes = grey == 0
    if not holes.any():
        return
    holes &= codes == _UNKNOWN
    if holes.any():
        holes &= (cell.reasons(window) & pixels.HOLE_REASONS) > 0
        pixels.filled(grey, holes)


def _graph(cell: LearnCell, window: Window, recipe: Recipe) -> Graph:
    if not any(target.needs_graph for target in recipe.targets):
        return NO_GRAPH
    return cell.graph.near(cell.grid, window, recipe.reach_um)


def _settled(drawn: NDArray[np.uint8], near: NDArray[np.uint8], reasons: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a deformed voxel may claim: the same rules as those of stored labels, its reasons being those of the nearest voxel.

    A tube wins over the rim; a bad plane, a misregistered stretch and what was not downloaded win over the tube. Where the nearest voxel is
    in a tube that is not drawn here, nothing is claimed.
    """
    known_tube = (drawn != 0) & ((reasons & _STRONGER_THAN_TUBES) == 0)
    return np.where(known_tube, drawn, np.where(near == 0, 0, _UNKNOWN)).astype(np.uint8)


NO_GRAPH = Graph.empty()
