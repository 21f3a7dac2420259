"""What a network is to predict, drawn from the graph when a patch is read: at a cost that depends on the patch alone.

Every target says where it is unknown: whole-number targets are 255 there (`ignore_index`), others NaN, so that a loss which forgets the
mask cannot go unnoticed. `known` gives the mask of any of them. Where `raster.rasterize` has the kind, known voxels are equal to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import ConfigError
from brightfield.core.space import Grid, Window
from brightfield.learn.cells import DrawingRules, Graph
from brightfield.learn.fields import affinities, draw_blobs, draw_direction, empty_field
from brightfield.learn.turn import Turn
from brightfield.raster import runs
from brightfield.raster.cones import spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.voxels import BAND_UM, lower_to_distance

type Array = NDArray[Any]

_UNKNOWN = int(Label.UNKNOWN)
_NONE: NDArray[np.int32] = np.empty((0, 5), np.int32)
_MAX_OBJECTS = 250


@dataclass(eq=False)
class Scene:
    """What targets are drawn from: the graph near the patch, where the patch is, and what is known there.

    codes: (z, y, x) uint8 class codes of `schema.Label`, 255 where unknown.
    """

    graph: Graph
    grid: Grid
    window: Window
    codes: NDArray[np.uint8]
    rules: DrawingRules

    @cached_property
    def strokes(self) -> NDArray[np.int32]:
        """Spans of tubes and of the lines that connect them; see `runs.strokes`."""
        cones = self.graph.cones
        lines = _NONE if self.rules.connect is None else lines_of(cones, self.grid, self.rules.connect, self.window)
        return runs.strokes(spans_of(cones, self.grid, self.window, threads=1), lines, len(cones))

    def objects(self) -> NDArray[np.uint8]:
        """(z, y, x) uint8: 0 background, 255 unknown, else a number for each tree."""
        cones = self.graph.cones
        trees, number = np.unique(cones.tree, return_inverse=True)
        if len(trees) <= 1:
            return inside_of(self.codes)
        if len(trees) > _MAX_OBJECTS:
            raise ConfigError(f"a patch with {len(trees)} trees: affinities tell {_MAX_OBJECTS} apart; choose smaller patches")
        numbered = replace(cones, label=(number + 2).astype(np.uint8))  # 1 would be the soma, which wins over the nearer axis
        drawn = runs.paint(runs.settle(self.strokes, numbered, self.grid), self.window)
        drawn[self.codes == _UNKNOWN] = _UNKNOWN
        return drawn


class Target(Protocol):
    """One thing to predict. `draw` is called on the patch as it lies in the cell, `turned` moves it with the patch, `finish` ends it."""

    @property
    def name(self) -> str:
        """The key in a sample."""

    @property
    def needs_graph(self) -> bool:
        """Whether the stored labels alone do not suffice."""

    def reach_um(self) -> float:
        """How far from the patch the graph still matters."""

    def draw(self, scene: Scene) -> Array:
        """The target (..., z, y, x)."""

    def turned(self, drawn: Array, turn: Turn) -> Array:
        """The same after a turn of the patch."""

    def finish(self, turned: Array) -> Array:
        """What is only known after the turn."""


class _Plain:
    """A target that is moved like an image, and complete when it is drawn."""

    needs_graph = True

    def reach_um(self) -> float:
        return 0.0

    def turned(self, drawn: Array, turn: Turn) -> Array:
        return turn.apply(drawn)

    def finish(self, turned: Array) -> Array:
        return turned


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise ConfigError(f"{name} is a positive number of micrometres, found {value}")


@dataclass(frozen=True)
class Semantic(_Plain):
    """(z, y, x) uint8: codes of `schema.Label`."""

    name = "semantic"
    needs_graph = False

    def draw(self, scene: Scene) -> Array:
        """See the class."""
        return scene.codes


@dataclass(frozen=True)
class Inside(_Plain):
    """(z, y, x) uint8: 1 in the neuron, whatever its class."""

    name = "inside"
    needs_graph = False

    def draw(self, scene: Scene) -> Array:
        """See the class."""
        return inside_of(scene.codes)


@dataclass(frozen=True)
class Centerline(_Plain):
    """(z, y, x) uint8: class codes along the axes only, one voxel wide."""

    name = "centerline"

    def draw(self, scene: Scene) -> Array:
        """See the class."""
        cones = scene.graph.cones
        lines = lines_of(cones, scene.grid, scene.rules.connect or 26, scene.window)
        drawn = runs.paint(runs.settle(runs.strokes(_NONE, lines, len(cones)), cones, scene.grid), scene.window)
        drawn[scene.codes == _UNKNOWN] = _UNKNOWN
        return drawn


@dataclass(frozen=True)
class Distance(_Plain):
    """(z, y, x) float32: um to the surface, negative inside, clipped to +-`band_um`."""

    band_um: float = BAND_UM
    name = "distance"

    def __post_init__(self) -> None:
        _check_positive("band_um", self.band_um)

    def reach_um(self) -> float:
        """See `Target`."""
        return self.band_um

    def draw(self, scene: Scene) -> Array:
        """See the class."""
        field: Array = empty_field(scene.codes, self.band_um)[0]
        lower_to_distance(field, scene.graph.cones, scene.grid, scene.window, band_um=self.band_um, threads=1)
        return field


@dataclass(frozen=True)
class Direction(_Plain):
    """(3, z, y, x) float32: unit vector (z, y, x) in um along the neurite, away from the root; 0 outside the tube and in the soma."""

    name = "direction"

    def draw(self, scene: Scene) -> Array:
        """See the class."""
        field = empty_field(scene.codes, 0.0, 3)
        draw_direction(scene.strokes, scene.graph.cones, scene.grid, scene.window, field)
        return field

    def turned(self, drawn: Array, turn: Turn) -> Array:
        """See `Target`."""
        return turn.apply_vectors(drawn) if turn else drawn


@dataclass(frozen=True)
class Affinities(_Plain):
    """(k, z, y, x) uint8: 1 where a voxel and its neighbour at each offset (z, y, x) in voxels belong to the same tree.

    Unknown too where the neighbour is outside of the patch.
    """

    offsets_zyx: tuple[tuple[int, int, int], ...] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    name = "affinities"

    def __post_init__(self) -> None:
        if not self.offsets_zyx or not all(len(offset) == 3 and any(offset) for offset in self.offsets_zyx):
            raise ConfigError(f"affinities need offsets (z, y, x) that are not (0, 0, 0), found {self.offsets_zyx}")

    def draw(self, scene: Scene) -> Array:
        """The objects: neighbours are looked for after the turn."""
        return scene.objects()

    def finish(self, turned: Array) -> Array:
        """See the class."""
        return affinities(np.ascontiguousarray(turned), np.array(self.offsets_zyx, np.int64))


@dataclass(frozen=True)
class KeypointMaps(_Plain):
    """(3, z, y, x) float32: Gaussians of height 1 and `sigma_um` at the soma, at branch points and at tips.

    Unknown too, in the channel of tips, within 3 sigma of an end that is no tip: cut by a slice face, or not traced on.
    """

    sigma_um: float = 1.0
    name = "keypoints"

    def __post_init__(self) -> None:
        _check_positive("sigma_um", self.sigma_um)

    def reach_um(self) -> float:
        """See `Target`."""
        return 3 * self.sigma_um

    def draw(self, scene: Scene) -> Array:
        """See the class."""
        points = scene.graph.keypoints
        height = np.where(points.natural, 1.0, np.nan).astype(np.float32)
        maps = empty_field(scene.codes, 0.0, 3)
        draw_blobs(points.position_zyx_um, points.channel, height, self.sigma_um, scene.grid, scene.window, maps)
        return maps


TARGETS: dict[str, Target] = {
    target.name: target for target in (Semantic(), Inside(), Centerline(), Distance(), Direction(), Affinities(), KeypointMaps())
}
"""The targets by name, with their defaults."""


def as_targets(wanted: Iterable[str | Target]) -> tuple[Target, ...]:
    """Targets from names and targets. Raises ConfigError for a name that is none, or comes twice."""
    found = []
    for target in [wanted] if isinstance(wanted, str) else wanted:
        if isinstance(target, str) and target not in TARGETS:
            raise ConfigError(f"a target is one of {', '.join(TARGETS)}, found {target!r}")
        found.append(TARGETS[target] if isinstance(target, str) else target)
    names = [target.name for target in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"a sample has one target of a name, found several: {', '.join(repeated)}")
    return tuple(found)


def known(target: Array) -> NDArray[np.bool_]:
    """Where a target says something: not 255 of whole numbers, not NaN of others."""
    mask: NDArray[np.bool_] = ~np.isnan(target) if np.issubdtype(target.dtype, np.floating) else target != _UNKNOWN
    return mask


def inside_of(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 for every class, 0 for background, 255 for unknown."""
    unknown = (codes == _UNKNOWN).view(np.uint8)
    inside: NDArray[np.uint8] = np.minimum(codes, 1) | unknown * np.uint8(_UNKNOWN)
    return inside


def draw_codes(scene: Scene) -> NDArray[np.uint8]:
    """Class codes from the graph alone."""
    return runs.paint(runs.settle(scene.strokes, scene.graph.cones, scene.grid), scene.window)
