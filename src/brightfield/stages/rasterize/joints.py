"""The axes of a skeleton as joints that can be moved, with the cones between them: what is fitted to the stain.

Joints are the nodes, in their order, and then cuts of long edges, so that a tube can bend between two nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from brightfield.core.skeleton import ROOT
from brightfield.raster.cones import Cones

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brightfield.core.skeleton import Skeleton

STEP_UM = 1.0
"""Edges are cut into pieces no longer than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Joints:
    """The joints of a skeleton; each but the roots ends a piece of the edge of its `node`, which begins at the joint `up`.

    cones: of the skeleton, one per node. position_zyx_um: (n, 3) float64. node: (n,) the node whose edge a joint lies on. up: (n,) the
    joint before it, towards the root; -1 for roots. ends: (n, 2) where its piece begins and ends on the edge, 0 to 1.
    """

    cones: Cones
    position_zyx_um: NDArray[np.float64]
    node: NDArray[np.int64]
    up: NDArray[np.int64]
    ends: NDArray[np.float64]

    @classmethod
    def of(cls, skeleton: Skeleton, cones: Cones, step_um: float = STEP_UM) -> Joints:
        """Joints no farther apart than the step. cones: of the skeleton, in the order of its nodes."""
        n, parent = len(skeleton), skeleton.parent
        n_pieces = np.maximum(np.ceil(skeleton.edge_length_um / step_um), 1).astype(np.int64)
        first = n + np.cumsum(n_pieces - 1) - (n_pieces - 1)
        cut_node = np.repeat(np.arange(n), n_pieces - 1)
        number = np.arange(len(cut_node)) + n - first[cut_node]
        node = np.concatenate([np.arange(n), cut_node])
        before = np.concatenate([n_pieces - 1, number])  # pieces of the edge that lie between its parent and the joint's own piece
        ends = np.stack([before, before + 1], axis=1) / n_pieces[node, None]
        up = np.concatenate([np.where(n_pieces > 1, first + n_pieces - 2, parent), np.arange(n, n + len(cut_node)) - 1])
        starts = n + np.flatnonzero(number == 0)
        up[starts] = parent[node[starts]]
        a, b = cones.geometry[node, 0:3], cones.geometry[node, 4:7]
        position = a + ends[:, 1:] * (b - a)
        position[:n] = b[:n]
        return cls(cones, position, node, up, ends)

    def __len__(self) -> int:
        return len(self.node)

    @property
    def radius_um(self) -> NDArray[np.float64]:
        """(n,) of the cones at the joints."""
        return self._radius(self.cones.geometry[:, 3::4])[:, 1]

    @property
    def length_um(self) -> NDArray[np.float64]:
        """(n,) of each joint's piece; 0 for roots."""
        start, end = self.cones.geometry[self.node, 0:3], self.cones.geometry[self.node, 4:7]
        length: NDArray[np.float64] = np.sqrt(((end - start) ** 2).sum(axis=1)) * (self.ends[:, 1] - self.ends[:, 0])
        return length

    def parents_first(self) -> NDArray[np.int64]:
        """The joints in an order in which each comes after the one it hangs on."""
        depth = np.zeros(len(self), np.int64)
        link = np.append(np.where(self.up == ROOT, len(self), self.up), len(self))
        steps = np.append((self.up != ROOT).astype(np.int64), 0)
        while np.any(link[:-1] != len(self)):
            steps = steps + steps[link]
            link = link[link]
        depth = steps[:-1]
        return np.argsort(depth, kind="stable").astype(np.int64)

    def moved(self, offset_um: NDArray[np.float64], factor: NDArray[np.float64], among: NDArray[np.bool_]) -> Cones:
        """The pieces of some joints as cones. offset_um: (n, 3) of the joints; factor: (n,) of their radii; among: (n,)."""
        chosen = np.flatnonzero(among)
        up = np.where(self.up == ROOT, np.arange(len(self)), self.up)[chosen]
        position = self.position_zyx_um + offset_um
        raw, drawn = (self._radius(radii)[chosen] for radii in (self.cones.radius_um, self.cones.geometry[:, 3::4]))
        scale = np.stack([factor[up], factor[chosen]], axis=1)
        geometry = np.concatenate([position[up], (drawn * scale)[:, :1], position[chosen], (drawn * scale)[:, 1:]], axis=1)
        node = self.node[chosen]
        return Cones(geometry, self.cones.label[node], self.cones.node_id[node], self.cones.tree[node], raw * scale)

    def _radius(self, of_cones: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) radii at either end of each joint's piece, from those at the ends of the cones."""
        start, end = of_cones[self.node, :1], of_cones[self.node, 1:]
        return start + self.ends * (end - start)
