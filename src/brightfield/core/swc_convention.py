"""How the numbers of an SWC are meant: the unit and the axes that its reader assumes, and what the file says of them itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Finding, Severity
from brightfield.core.space import Triple

type Reals = NDArray[np.float64]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SCALE = re.compile(rf"#\W*scale\b\s*[:=]?\s*({_NUMBER})(?:[\s,]+({_NUMBER})[\s,]+({_NUMBER}))?", re.IGNORECASE)
_UNIT_NAMES = r"nm|nano-?met\w+|um|[µμ]m|microns?|micro-?met\w+|mm|milli-?met\w+|px|pixels?|voxels?"
_UNIT = re.compile(rf"\bunits?\b[\"'\s:=\[(]*({_NUMBER})?\s*({_UNIT_NAMES})\b", re.IGNORECASE)
_NUMBERS_OF = r"positions?|coordinates?|coords?|radii|radius|values|lengths|distances|x,?\s*y,?\s*z"
_IN_UNIT = re.compile(rf"\b(?:{_NUMBERS_OF})\b.*?\bin\s+()({_UNIT_NAMES})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SwcConvention:
    """What a reader takes an SWC's numbers for.

    unit: um, nm, or px (pixels of the stack, planes along z; radii in pixels). axes: which axis each of the three position columns is.
    voxel_size_zyx_um: of the stack, for px.
    """

    unit: str = "um"
    axes: str = "xyz"
    voxel_size_zyx_um: Triple = (1.0, 1.0, 1.0)

    def position_zyx_um(self, columns: Reals) -> Reals:
        """Positions (n, 3) in (z, y, x) um from the three position columns of a file."""
        position: Reals = columns[:, [self.axes.index(axis) for axis in "zyx"]]
        return position * self.voxel_size_zyx_um if self.unit == "px" else self._of_length(position)

    def radius_um(self, column: Reals) -> Reals:
        """Radii in um from the radius column of a file."""
        return column * self.voxel_size_zyx_um[2] if self.unit == "px" else self._of_length(column)

    def _of_length(self, values: Reals) -> Reals:
        return values / 1000 if self.unit == "nm" else values

    def contradictions(self, text: str) -> Iterator[Finding]:
        """What the comments of a file say of its numbers and this convention does not take into account."""
        for number, line in enumerate(text.split("\n"), start=1):
            start = line.find("#")
            if start < 0:
                continue
            comment = line[start:]
            problem = _scale_problem(comment) or self._unit_problem(comment)
            if problem:
                message, remedy = problem
                yield Finding(Severity.ERROR, "swc-unit", f"line {number} says {comment.strip('# ')[:80]!r}: {message}", remedy=remedy)

    def _unit_problem(self, comment: str) -> tuple[str, str] | None:
        found = _UNIT.search(comment) or _IN_UNIT.search(comment)
        if found is None:
            return None
        factor, unit = float(found[1] or 1), _short(found[2])
        if factor != 1:
            return f"one is {factor:g} {unit}, and it was read as 1 {self.unit}", "convert the file to um"
        if unit != self.unit:
            return f"the numbers are {unit}, and were read as {self.unit}", _remedy(unit)
        return None


def _scale_problem(comment: str) -> tuple[str, str] | None:
    """Of a SCALE line, which some programs have applied and others not: 1 1 1 is none."""
    found = _SCALE.match(comment)
    if found is None or all(float(factor) == 1 for factor in found.groups() if factor):
        return None
    return "it was not applied", "multiply x, y, z by it if that was not done, then remove the line"


def _short(unit: str) -> str:
    lower = unit.lower()
    kinds = {"nm": ("nm", "nano"), "mm": ("mm", "milli"), "px": ("px", "pixel", "voxel")}
    return next((short for short, beginnings in kinds.items() if lower.startswith(beginnings)), "um")


def _remedy(unit: str) -> str:
    return "convert the file to um" if unit == "mm" else f"read it with source.swc_unit={unit}"
