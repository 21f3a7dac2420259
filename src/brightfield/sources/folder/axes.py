"""Which axis of an array counts the planes: one rule for TIFF and OME-Zarr.

Exactly one axis that may be z is longer than 1; of channels and time points one is there or one was chosen; every other axis has length 1.
Anything else is refused, with the axes named: another rule would lay time points upon each other as if they were planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brightfield.core.errors import StackError

Z_LIKE = frozenset("ziq")
"""z, and what tifffile calls a sequence of images that nobody named: i (pages of one kind) and q (an axis without a name)."""

_UNNAMED = {"i": "pages", "q": "unnamed"}
_CHOSEN = {"c": "channel", "t": "time"}
_WORDS = {"c": "channels", "t": "time points", "s": "samples (colour)", "p": "positions", "r": "regions"}


@dataclass(frozen=True, slots=True)
class Choice:
    """`source.channel` and `source.time`: which one of several to read; None where nobody chose."""

    channel: int | None = None
    time: int | None = None


@dataclass(frozen=True, slots=True)
class PlaneAxes:
    """The axes of an array, in its own order, once it is clear which of them counts planes.

    names, shape: of every axis. z: the position of the axis that counts planes, None for a single plane. chosen: the index taken of every
    other axis than z, y and x.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    z: int | None
    chosen: tuple[int, ...]

    @property
    def n_planes(self) -> int:
        """How many planes there are."""
        return 1 if self.z is None else self.shape[self.z]

    @property
    def y(self) -> int:
        """The position of the axis of rows."""
        return self.names.index("y")

    @property
    def x(self) -> int:
        """The position of the axis of columns."""
        return self.names.index("x")

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns of a plane."""
        return (self.shape[self.y], self.shape[self.x])

    def frame(self, plane: int) -> int:
        """The number of a plane among all planes of the array, of which y and x are the last two axes."""
        number = 0
        for axis in range(len(self.shape) - 2):
            number = number * self.shape[axis] + (plane if axis == self.z else self.chosen[axis])
        return number

    def place(self, planes: slice, rows: slice, columns: slice) -> tuple[slice | int, ...]:
        """The index of a box, every axis in the array's order; axes other than z, y and x are gone from what it gives."""
        spatial = {self.z: planes, self.y: rows, self.x: columns}
        return tuple(spatial.get(axis, self.chosen[axis]) for axis in range(len(self.names)))

    @property
    def order(self) -> tuple[int, ...]:
        """How to transpose what `place` gives to (z, y, x), or to (y, x) where there is no z."""
        kept = sorted(axis for axis in (self.z, self.y, self.x) if axis is not None)
        return tuple(kept.index(axis) for axis in (self.z, self.y, self.x) if axis is not None)

    @property
    def suffix(self) -> str:
        """Of a plane's stamp: which channel and time point it is of, empty for the first ones."""
        return "".join(f"{name}{n}" for name, n in zip(self.names, self.chosen, strict=True) if n)

    def __str__(self) -> str:
        """The axes with their lengths, for people: `t=2, z=8, y=128, x=160`."""
        return told(self.names, self.shape)


def told(names: Sequence[str], shape: Sequence[int]) -> str:
    """Axes with their lengths, for people."""
    return ", ".join(f"{_UNNAMED.get(name, name)}={n}" for name, n in zip(names, shape, strict=True))


def plane_axes(names: Sequence[str], shape: Sequence[int], choice: Choice, path: str) -> PlaneAxes:
    """The axes of an array, judged by the rule of this module. Raises StackError, naming the axes, where the rule does not hold."""
    names = tuple(name.lower() for name in names)
    where = f"axes {told(names, shape)}"
    if names.count("y") != 1 or names.count("x") != 1:
        raise StackError(f"{where}: expected rows (y) and columns (x)", path=path)
    planes = [axis for axis, name in enumerate(names) if name in Z_LIKE and shape[axis] > 1]
    if len(planes) > 1:
        raise StackError(f"{where}: more than one axis may be z; save a stack with one z axis", path=path)
    z = planes[0] if planes else next((axis for axis, name in enumerate(names) if name in Z_LIKE), None)
    chosen = tuple(_chosen(names, shape, axis, choice, path) if axis != z and name not in "yx" else 0 for axis, name in enumerate(names))
    _refuse_absent(names, choice, where, path)
    return PlaneAxes(names, tuple(int(n) for n in shape), z, chosen)


def _chosen(names: Sequence[str], shape: Sequence[int], axis: int, choice: Choice, path: str) -> int:
    """The index taken of an axis that is neither z, y nor x."""
    name, n, where = names[axis], shape[axis], f"axes {told(names, shape)}"
    option = _CHOSEN.get(name, "")
    wanted: int | None = getattr(choice, option) if option else None
    if n > 1 and wanted is None:
        is_all = not any(other in Z_LIKE and shape[position] > 1 for position, other in enumerate(names))
        hint = " (if they are the planes, save them as z)" if is_all else ""
        remedy = f"choose one with source.{option}=0 to {n - 1}{hint}" if option else "save one of them as a stack of its own"
        raise StackError(f"{where}: {n} {_WORDS.get(name, f'along {name}')}, expected one; {remedy}", path=path)
    if (wanted or 0) >= n:
        raise StackError(f"{where}: source.{option}={wanted} is not there; {name} has {n}, counted from 0", path=path)
    return wanted or 0


def _refuse_absent(names: Sequence[str], choice: Choice, where: str, path: str) -> None:
    """Raise where another than the first channel or time point is wanted and the array has no such axis."""
    for name, option in _CHOSEN.items():
        wanted = getattr(choice, option)
        if wanted and name not in names:
            raise StackError(f"{where}: source.{option}={wanted} is not there; there is no axis {name}", path=path)
