"""Voxel metrics: precision, recall, F1 and clDice, from counts that add up over blocks and over cells.

A class is scored where it can be known. Voxels labelled unknown never count. Where the absence of a class is unknown (the axon of a
dendrite-only reconstruction), a voxel predicted so is neither right nor wrong, and the precision of that class is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import LABEL_NAMES, Label

FOREGROUND = 5
"""Code of a voxel that belongs to a neuron whose class is not told: predictions that are masks, labels of the kind ``inside``."""

LEFT_OUT = 6
"""Code of a true voxel that does not count: unknown, or of an edge that recall may not be scored on."""

N_CODES = 6

NEURITE = "neurite"
"""Axon and dendrites together; the soma is left out."""

GROUPS: dict[str, tuple[int, ...]] = {
    **{name: (int(label),) for label, name in LABEL_NAMES.items()},
    NEURITE: (Label.AXON, Label.BASAL_DENDRITE, Label.APICAL_DENDRITE, FOREGROUND),
}
"""What is scored, and the codes that belong to it."""

CENTRELINE_GROUPS = tuple(name for name in GROUPS if name != LABEL_NAMES[Label.SOMA])
"""What has clDice: a soma is a ball and has no centreline."""

type Known = frozenset[int]
"""The codes whose absence is known: where a voxel is not labelled so, it does not belong to them."""


def known_codes(class_validity: dict[str, str]) -> Known:
    """The codes whose absence is known, from a label store's `class_validity` ("absent" or "unknown" for each class)."""
    known = {int(label) for label, name in LABEL_NAMES.items() if class_validity.get(name) == "absent"}
    return frozenset(known | ({FOREGROUND} if len(known) == len(LABEL_NAMES) else set()))


@dataclass(frozen=True, slots=True)
class Counts:
    """Hits of one group, in voxels; add them up over cells.

    found, missed: true voxels that are predicted so, and that are not. right, wrong: predicted voxels that are truly so, and that are not,
    of the predicted codes whose absence is known.
    """

    found: int = 0
    missed: int = 0
    right: int = 0
    wrong: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.found + other.found, self.missed + other.missed, self.right + other.right, self.wrong + other.wrong)

    @property
    def recall(self) -> float | None:
        """Share of what is true that is found; None where nothing is true."""
        return ratio(self.found, self.found + self.missed)

    @property
    def precision(self) -> float | None:
        """Share of what is predicted that is true; None where nothing is predicted, or nobody can know."""
        return ratio(self.right, self.right + self.wrong)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall (of centrelines: clDice); 0 where nothing is predicted, None where one is not known."""
        return harmonic_mean(self.precision, self.recall)


def ratio(part: float, whole: float) -> float | None:
    """The quotient of both; None for 0 / 0."""
    return part / whole if whole else None


def harmonic_mean(one: float | None, other: float | None) -> float | None:
    """Harmonic mean of two shares; None where one is None."""
    if one is None or other is None:
        return None
    return 2 * one * other / (one + other) if one + other else 0.0


def truth_codes(label_kind: str) -> NDArray[np.uint8]:
    """(256,) uint8: the code that a label stands for; `label_kind` is semantic or inside."""
    codes = np.full(256, LEFT_OUT, np.uint8)
    codes[:5] = range(5)
    if label_kind == "inside":
        codes[1], codes[2:5] = FOREGROUND, LEFT_OUT
    return codes


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(6, 6) int64: voxels by true code (rows) and by predicted code (columns); those that are LEFT_OUT in `truth` do not count.

    truth: codes 0 to 6, predicted: codes 0 to 5, of one shape.
    """
    table = np.zeros((N_CODES, N_CODES), np.int64)
    _count(np.ascontiguousarray(truth).ravel(), np.ascontiguousarray(predicted).ravel(), table)
    return table


def counts_of(table: NDArray[np.int64], group: str, known: Known) -> Counts:
    """The hits of a group from a confusion table; for `NEURITE` true somata are left out."""
    codes = list(GROUPS[group])
    judged = [code for code in codes if code in known]
    rows = [code for code in range(N_CODES) if group != NEURITE or code != Label.SOMA]
    others = [code for code in rows if code not in codes]
    not_so = [code for code in range(N_CODES) if code not in codes]
    return Counts(
        found=int(table[np.ix_(codes, codes)].sum()),
        missed=int(table[np.ix_(codes, not_so)].sum()),
        right=int(table[np.ix_(codes, judged)].sum()),
        wrong=int(table[np.ix_(others, judged)].sum()),
    )


def in_group(codes: NDArray[np.uint8], group: str) -> NDArray[np.bool_]:
    """Where codes belong to a group; the codes of every group follow each other."""
    belongs: NDArray[np.bool_] = (codes >= min(GROUPS[group])) & (codes <= max(GROUPS[group]))
    return belongs


@njit(cache=True, nogil=True)
def _count(truth: Any, predicted: Any, table: Any) -> None:
    for i in range(truth.size):
        if truth[i] < 6:
            table[truth[i], predicted[i]] += 1
