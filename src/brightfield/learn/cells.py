"""A cell as learning sees it: windows of its image and labels, and the graph that the labels were drawn from. Stays open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import TipKind
from brightfield.core.layout import REASON_GROUP, image_store, label_store, swc_export_file
from brightfield.core.schema import NODES
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Shape, Triple, Window
from brightfield.core.swc import parse_swc
from brightfield.learn.ahead import Once
from brightfield.raster.cones import Cones, SomaEdges, cones_of, near_window, window_numbers
from brightfield.raster.voxels import R_MIN_UM, Connect
from brightfield.volumes.afar import reader_anywhere
from brightfield.volumes.volume import Volume

if TYPE_CHECKING:
    from brightfield.learn.files import Files

type Reader = Callable[[Window], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class DrawingRules:
    """How the tubes of the stored labels were drawn; see `raster.rasterize`."""

    kind: str = "semantic"
    r_min_um: float = R_MIN_UM
    soma_edges: SomaEdges = "capsule"
    connect: Connect = 26

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> DrawingRules:
        """From the attributes of a label store; what they do not say is the default."""
        said = attributes.get("labels", {})
        return cls(**{name: said[name] for name in cls.__slots__ if name in said})


@dataclass(frozen=True, slots=True, eq=False)
class Keypoints:
    """The somata, branch points and tips of a skeleton.

    position_zyx_um: (n, 3). channel: (n,) 0 soma, 1 branch point, 2 tip. natural: (n,) False for a tip that a slice face cuts or where
    tracing stopped: the neurite goes on, so it is no tip of the neuron.
    """

    position_zyx_um: NDArray[np.float64]
    channel: NDArray[np.int64]
    natural: NDArray[np.bool_]

    @classmethod
    def of(cls, skeleton: Skeleton, stopped: NDArray[np.int64]) -> Keypoints:
        """From a skeleton and the node ids of the tips that are no natural ends."""
        groups = ([] if skeleton.soma is None else [skeleton.soma], skeleton.branch_points, skeleton.tips)
        nodes = np.concatenate([np.asarray(group, np.int64) for group in groups])
        channel = np.repeat(np.arange(3), [len(group) for group in groups])
        natural = ~(np.isin(skeleton.node_id[nodes], stopped) & (channel == 2))
        return cls(skeleton.position_zyx_um[nodes], channel, natural)

    def moved_to(self, position_zyx_um: NDArray[np.float64]) -> Keypoints:
        """The same points elsewhere."""
        return Keypoints(position_zyx_um, self.channel, self.natural)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """What can be drawn of a cell: round cones and keypoints, in um."""

    cones: Cones
    keypoints: Keypoints

    @classmethod
    def empty(cls) -> Graph:
        """Nothing to draw."""
        none = np.empty(0, np.int64)
        cones = Cones(np.empty((0, 8)), none.astype(np.uint8), none, none.astype(np.int32), np.empty((0, 2)))
        return cls(cones, Keypoints(np.empty((0, 3)), none, none.astype(np.bool_)))

    def near(self, grid: Grid, window: Window, reach_um: float) -> Graph:
        """What is within `reach_um` of a window: what is drawn from it is the same, at a cost that the whole cell does not enter."""
        reach: Triple = tuple(max(reach_um, 2 * size) for size in grid.voxel_size_zyx_um)  # type: ignore[assignment]
        cones = self.cones.take(near_window(self.cones, grid, window_numbers(grid, window), reach))
        points = self.keypoints
        low, high = grid_box_um(grid, window)
        here = np.all((points.position_zyx_um >= low - reach_um) & (points.position_zyx_um <= high + reach_um), axis=1)
        return Graph(cones, Keypoints(points.position_zyx_um[here], points.channel[here], points.natural[here]))


class LearnCell:
    """One cell of a dataset, opened when it is first read. Raises StackError or SourceError, when that happens, for what is not there."""

    def __init__(self, files: Files, specimen_id: int) -> None:
        self.specimen_id = specimen_id
        self.lock = threading.RLock()
        self._files = files

    @property
    def grid(self) -> Grid:
        """The grid of the image and of the labels."""
        return self._labels.grid

    @property
    def shard_zyx(self) -> Shape:
        """Voxels of a shard: what is fetched together."""
        return self._labels.spec().shard_zyx

    @Once
    def image(self) -> Reader:
        """Reads grey values, uint8 or uint16."""
        return reader_anywhere(self._files.volume(image_store(self.specimen_id)))

    @Once
    def codes(self) -> Reader:
        """Reads the stored labels, whatever their kind: 255 is unknown in all of them."""
        return reader_anywhere(self._labels)

    @Once
    def reasons(self) -> Reader:
        """Reads `schema.Reason` bits."""
        return reader_anywhere(self._labels.sub(REASON_GROUP))

    @Once
    def rules(self) -> DrawingRules:
        """How the stored labels were drawn."""
        return DrawingRules.of(self._labels.attributes)

    @Once
    def graph(self) -> Graph:
        """What the labels were drawn from, in the frame of `grid`."""
        skeleton = self._skeleton()
        cones = cones_of(skeleton, self.rules.r_min_um, self.rules.soma_edges)
        return Graph(cones, Keypoints.of(skeleton, self._stopped_tips()))

    @Once
    def _labels(self) -> Volume:
        return self._files.volume(label_store(self.specimen_id))

    def _skeleton(self) -> Skeleton:
        path = swc_export_file(self.specimen_id, "um")
        return parse_swc(self._files.read(path), path)

    def _stopped_tips(self) -> NDArray[np.int64]:
        """Node ids of the tips that are cut or untraced."""
        nodes = self._files.table(NODES, self.specimen_id)
        return nodes.loc[nodes["tip"].isin([TipKind.CUT, TipKind.UNTRACED]), "node_id"].to_numpy(np.int64)


def grid_box_um(grid: Grid, window: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of the first and the last voxel of a window, in um."""
    first, last = np.array([[lo, hi - 1] for lo, hi in window]).T
    return grid.to_um(first), grid.to_um(last)
