"""Run lengths of a volume: what segment each node of the truth lies in, segments being what hangs together in the predicted mask.

What is predicted in unknown voxels links a neurite, and is never a merge. So three masks are looked at: the prediction; the truth, because
trees that touch are one object that no mask could part; and the truth with what is predicted where nobody can judge it, because objects
that are joined by that alone are not merged.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.skeleton import ROOT
from brightfield.evaluation.components import Components, mask_runs
from brightfield.evaluation.runlength import Runs, run_lengths
from brightfield.evaluation.voxels import FOREGROUND, LEFT_OUT, N_CODES, Known

if TYPE_CHECKING:
    from brightfield.core.space import Window
    from brightfield.evaluation.truth import Truth, TruthVoxels

_PREDICTED, _TRUE, _EXCUSED = 1, 2, 4
_MASKS = (_PREDICTED, _TRUE, _EXCUSED)
_NEURITE = (Label.AXON, FOREGROUND)


class Connectivity:
    """The run lengths of one prediction, from its blocks: those of a slab of planes one after the other, slabs from the top down."""

    def __init__(self, truth: Truth, voxels: TruthVoxels) -> None:
        self._edges, self._length_um, self._node_zyx = _edges_of(truth, voxels)
        self._node_code = np.full(len(self._node_zyx), LEFT_OUT, np.uint8)
        self._components = [Components(self._node_zyx) for _ in _MASKS]
        self._flags_of = _flags(truth.known)
        self._planes = (0, 0)
        self._slab: list[list[NDArray[np.int32]]] = [[] for _ in _MASKS]

    def add(self, window: Window, codes: NDArray[np.uint8], axes: NDArray[np.bool_], predicted: NDArray[np.uint8]) -> None:
        """Add a block: true codes (see `voxels`), where the traced axes run, and predicted codes."""
        if window[0] != self._planes:
            self._close_slab()
            self._planes = window[0]
        flags = np.empty(codes.shape, np.uint8)
        _flag(codes.reshape(-1), predicted.reshape(-1), axes.reshape(-1), self._flags_of, flags.reshape(-1))
        for slab, bit in zip(self._slab, _MASKS, strict=True):
            slab.append(mask_runs(flags, bit, window))
        low, high = np.array(window).T
        here = np.flatnonzero(((self._node_zyx >= low) & (self._node_zyx < high)).all(axis=1))
        self._node_code[here] = codes[tuple((self._node_zyx[here] - low).T)]

    def runs(self) -> Runs:
        """The run lengths, when every block was added: over edges whose ends both lie in known voxels of a neurite."""
        self._close_slab()
        is_neurite = (self._node_code >= _NEURITE[0]) & (self._node_code <= _NEURITE[1])
        kept = is_neurite[self._edges].all(axis=1)
        if not kept.any():
            return Runs()
        used, edges = np.unique(self._edges[kept], return_inverse=True)
        segment, true, excused = (components.segments()[used] for components in self._components)
        return run_lengths(edges.reshape(-1, 2), self._length_um[kept], true, segment, excused)

    def _close_slab(self) -> None:
        for components, slab in zip(self._components, self._slab, strict=True):
            if slab:
                components.add(self._planes, np.concatenate(slab))
                slab.clear()


def _edges_of(truth: Truth, voxels: TruthVoxels) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Edges (m, 2) that may be scored, their lengths in um, and the voxels (n, 3) of all nodes."""
    skeleton = truth.skeleton
    child = np.flatnonzero(truth.scored & (skeleton.parent != ROOT))
    edges = np.stack([skeleton.parent[child], child], axis=1).astype(np.int64)
    return edges, skeleton.edge_length_um[child], voxels.grid.to_index(skeleton.position_zyx_um)


def _flags(known: Known) -> NDArray[np.uint8]:
    """(7, 6) the masks that a voxel belongs to, by its true and its predicted code.

    True somata are as if they were predicted: they are not scored, and hold dendrites together.
    """
    flags = np.zeros((LEFT_OUT + 1, N_CODES), np.uint8)
    flags[:, 1:] = _PREDICTED | _EXCUSED
    flags[Label.BACKGROUND, sorted(known)] = _PREDICTED
    flags[1:LEFT_OUT] |= _TRUE | _EXCUSED
    flags[Label.SOMA] |= _PREDICTED
    return flags


@njit(cache=True, nogil=True)
def _flag(codes: Any, predicted: Any, axes: Any, flags_of: Any, flags: Any) -> None:
    """On the axes of the truth, what may not be scored is as if it was predicted."""
    for i in range(len(codes)):
        flags[i] = flags_of[codes[i], predicted[i]]
        if axes[i]:
            flags[i] |= _TRUE | _EXCUSED
            if codes[i] == LEFT_OUT:
                flags[i] |= _PREDICTED
