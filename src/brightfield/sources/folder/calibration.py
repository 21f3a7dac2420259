"""How large a voxel is, as files state it: every statement with its unit and its place, collected first and judged in one place.

A statement that cannot be (zero, negative, no number) is a reason not to take the stack, and so are two that disagree; one that no
microscope makes (72 dots per inch) or without a unit of length is a note, not a statement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from brightfield.core.errors import StackError

LARGEST_PIXEL_UM = 20.0
"""More than this is no microscope: the resolution tag is the 72 dots per inch that programs write when they know nothing."""

LARGEST_PLANE_UM = 100.0
"""The same along z, where nothing but such a tag leads to more."""

TOLERANCE = 0.01
"""Relative: resolution tags are fractions of two whole numbers, and programs round them."""

_PREFIXES = {"yotta": 24, "zetta": 21, "exa": 18, "peta": 15, "tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2, "deca": 1, "deka": 1}
_PREFIXES |= {"": 0, "deci": -1, "centi": -2, "milli": -3, "micro": -6, "nano": -9, "pico": -12, "femto": -15, "atto": -18}
_PREFIXES |= {"zepto": -21, "yocto": -24}
_SYMBOLS = {"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0, "d": -1, "c": -2, "m": -3}
_SYMBOLS |= {"µ": -6, "μ": -6, "u": -6, "\\u00B5": -6, "\\u00b5": -6, "\\u03BC": -6, "\\u03bc": -6, "n": -9, "p": -12, "f": -15, "a": -18}
_SYMBOLS |= {"z": -21, "y": -24}

_INCH_UM = 25400.0
_WORDS_UM = {
    f"{prefix}{stem}": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items() for stem in ("meter", "metre", "meters", "metres")
}
_WORDS_UM |= {"micron": 1.0, "microns": 1.0, "angstrom": 1e-4, "ångström": 1e-4, "inch": _INCH_UM, "inches": _INCH_UM, "in": _INCH_UM}
_WORDS_UM |= {"thou": _INCH_UM / 1000, "mil": _INCH_UM / 1000, "line": _INCH_UM / 12, "li": _INCH_UM / 12, "foot": 12 * _INCH_UM}
_WORDS_UM |= {"ft": 12 * _INCH_UM, "feet": 12 * _INCH_UM, "yard": 36 * _INCH_UM, "yd": 36 * _INCH_UM, "mile": 63360 * _INCH_UM}
_WORDS_UM |= {"mi": 63360 * _INCH_UM, "point": _INCH_UM / 72, "astronomical_unit": 1.495978707e17, "ua": 1.495978707e17}
_WORDS_UM |= {"ly": 9.4607304725808e21, "pc": 3.0856775814913673e22, "parsec": 3.0856775814913673e22}
_SYMBOLS_UM = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _SYMBOLS.items()} | {"Å": 1e-4, "\u212b": 1e-4}


def unit_um(name: str) -> float | None:
    """How many um a unit of length is: those of OME, OME-Zarr and ImageJ, in words and symbols; None for others, such as `pixel`."""
    text = name.strip()
    by_symbol = _SYMBOLS_UM.get(text)
    return by_symbol if by_symbol is not None else _WORDS_UM.get(text.lower(), _SYMBOLS_UM.get(text.lower()))


@dataclass(frozen=True, slots=True)
class Statement:
    """One file's word on the size of a voxel along an axis (z, y or x), um, and where it says so."""

    axis: str
    um: float
    where: str


@dataclass(slots=True)
class Statements:
    """What the files of a stack say of its voxels, collected while they are read. notes: what was said and is no size."""

    found: list[Statement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, axis: str, value: object, unit: str | float | None, where: str) -> None:
        """Take down a value (None: not stated) in a unit, by name or in um (None: none stated)."""
        if value is None:
            return
        factor = unit_um(unit) if isinstance(unit, str) else unit
        if factor is None:
            self.notes.append(f"{where} = {value} {unit or 'without a unit'}: no unit of length, so it says nothing")
            return
        try:
            um = float(str(value)) * factor
        except ValueError:
            um = math.nan
        limit = LARGEST_PLANE_UM if axis == "z" else LARGEST_PIXEL_UM
        if um > limit and math.isfinite(um):
            self.notes.append(f"{where} gives {um:g} um along {axis}: no microscope does, so it is not believed")
        else:
            self.found.append(Statement(axis, um, where))

    def size(self, axis: str, path: str | None = None) -> Statement | None:
        """The first statement for an axis, after all were compared; None where there is none. Raises StackError, see this module."""
        return settled([statement for statement in self.found if statement.axis == axis], path)


def settled(statements: Sequence[Statement], path: str | None = None) -> Statement | None:
    """The first of some statements of one size. Raises StackError where one cannot be, or two differ by more than `TOLERANCE`."""
    for statement in statements:
        if not (math.isfinite(statement.um) and statement.um > 0):
            what = f"{statement.where} states a voxel of {statement.um:g} um along {statement.axis}"
            raise StackError(f"{what}; correct it, or set {_option(statement.axis)}", path=path)
    for other in statements[1:]:
        first = statements[0]
        if abs(other.um - first.um) > TOLERANCE * first.um:
            both = f"{first.where} says {first.um:g} um, {other.where} says {other.um:g} um"
            raise StackError(f"the voxel size along {first.axis} is stated twice: {both}; set {_option(first.axis)}", path=path)
    return statements[0] if statements else None


def voxel_um(statements: Statements, *, pixel_um: float = 0.0, plane_um: float = 0.0) -> dict[str, Statement]:
    """The size of a voxel along z, y and x: what was configured (more than 0), else what the files state; absent where nobody says.

    Raises StackError where the files contradict themselves or state what cannot be, or the pixels are not square.
    """
    configured = {"z": plane_um, "y": pixel_um, "x": pixel_um}
    size: dict[str, Statement] = {}
    for axis, um in configured.items():
        option = _option(axis)
        found = Statement(axis, um, option) if um else statements.size(axis)
        if found is not None:
            size[axis] = found
    if {"x", "y"} <= size.keys() and abs(size["x"].um - size["y"].um) > 1e-3 * size["x"].um:
        raise StackError(f"pixels are {size['y'].um:g} x {size['x'].um:g} um; expected squares, or set source.pixel_um")
    return size


def _option(axis: str) -> str:
    return "source.plane_um" if axis == "z" else "source.pixel_um"
