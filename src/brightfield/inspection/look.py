"""What is believed of one stack or skeleton before it becomes a cell: `brightfield inspect` shows at a glance whether it is right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import LABEL_NAMES, Finding, Severity
from brightfield.core.errors import BrightfieldError, SourceError
from brightfield.core.reach import beyond_reach
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, stack_grid, swc_to_stack_um
from brightfield.core.swc import parse_swc
from brightfield.core.swc_convention import SwcConvention
from brightfield.sources.folder.axes import Choice
from brightfield.sources.folder.calibration import Statement, voxel_um
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.stacks import OpenStack, open_stack
from brightfield.volumes.pyramid import block_mean

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from brightfield.config.options import SourceConfig

PICTURE_PX = 512
"""Longer side of the small picture, at most."""

_BAND_ROWS = 64


@dataclass
class Inspection:
    """What was found at a path. stack, skeleton: facts by name, None where there is none. picture: (h, w) means of the middle plane."""

    path: str
    stack: dict[str, Any] | None = None
    skeleton: dict[str, Any] | None = None
    findings: list[Finding] = field(default_factory=list)
    picture: NDArray[np.float64] | None = None
    picture_factor: int = 1
    grid: Grid | None = None
    traced: Skeleton | None = None

    @property
    def is_refused(self) -> bool:
        """Whether a cell of this would not be taken."""
        return any(finding.severity == Severity.ERROR for finding in self.findings)

    def as_json(self) -> str:
        """For programs."""
        findings = [{key: value for key, value in asdict(finding).items() if key != "specimen_id"} for finding in self.findings]
        return json.dumps({"path": self.path, "stack": self.stack, "skeleton": self.skeleton, "findings": findings}, indent=1)

    def as_text(self) -> str:
        """For people: a line for each fact, then what is odd."""
        lines = [self.path]
        for title, facts in (("stack", self.stack), ("skeleton", self.skeleton)):
            if facts is not None:
                lines += [title, *(f"  {name:<12} {_shown(value)}" for name, value in facts.items())]
        lines += [
            f"{finding.severity.value}: {finding.message}" + (f"; {finding.remedy}" if finding.remedy else "") for finding in self.findings
        ]
        return "\n".join(lines)


def inspect_path(path: str, config: SourceConfig) -> Inspection:
    """Look at an image file, an OME-Zarr, an SWC file, or the directory of a cell. Raises SourceError where there is nothing to look at."""
    import fsspec

    system, root = fsspec.core.url_to_fs(path)
    entries = _entries(system, root.rstrip("/"), path)
    found = Inspection(path)
    traces = [entry for entry in entries if entry.suffix == ".swc" and "marker" not in entry.name.lower()]
    stack = _stack(found, system, entries, config)
    if traces:
        _skeleton(found, system, traces[0], config)
    if stack is None and not traces and not found.findings:
        raise SourceError(f"{path}: there is no stack and no SWC to look at")
    return found


def _entries(system: AbstractFileSystem, root: str, path: str) -> list[Entry]:
    """The file, or what is in the directory; an OME-Zarr counts as a file."""
    try:
        info = system.info(root)
        itself = Entry(root, info.get("size"), info["type"] == "directory")
        if not itself.is_directory or itself.suffix == ".zarr":
            return [itself]
        listed = system.ls(root, detail=True)
    except OSError as error:
        raise SourceError(f"{path} cannot be opened: {error}") from error
    entries = (Entry(e["name"].rstrip("/"), e.get("size"), e["type"] == "directory") for e in listed)
    return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


# -------------------------------------------------------------------------------------------------------------------- stack


def _stack(found: Inspection, system: AbstractFileSystem, entries: Sequence[Entry], config: SourceConfig) -> OpenStack | None:
    try:
        stack = open_stack(system, entries, found.path, Choice(config.channel, config.time))
        if stack is None:
            return None
        found.stack = _stack_facts(stack)
        size = voxel_um(stack.statements, pixel_um=config.pixel_um, plane_um=config.plane_um)
        found.stack["voxel"] = {axis: {"um": size[axis].um, "where": size[axis].where} for axis in "zyx" if axis in size}
        found.findings += [Finding(Severity.INFO, "calibration", note) for note in stack.statements.notes]
        found.findings += _unstated(size)
        found.grid = _grid(stack, size)
        _look(found, stack)
    except BrightfieldError as error:
        found.findings.append(Finding(Severity.ERROR, "stack", f"not taken: {error}"))
        return None
    return stack


def _stack_facts(stack: OpenStack) -> dict[str, Any]:
    first, last = stack.numbers[0], stack.numbers[-1]
    return {
        "kind": stack.kind,
        "axes": stack.axes,
        "planes": len(stack.numbers),
        "missing": last - first + 1 - len(stack.numbers),
        "width_px": stack.shape_yx[1],
        "height_px": stack.shape_yx[0],
        "bits": 8 * stack.dtype.itemsize,
        "stated": [asdict(statement) for statement in stack.statements.found],
    }


def _unstated(size: dict[str, Statement]) -> Iterator[Finding]:
    for axes, option in (("yx", "source.pixel_um"), ("z", "source.plane_um")):
        if not any(axis in size for axis in axes):
            yield Finding(Severity.ERROR, "calibration", f"the files do not say their voxel size along {axes}", remedy=f"set {option}")


def _grid(stack: OpenStack, size: dict[str, Statement]) -> Grid | None:
    pixel, plane = size.get("x") or size.get("y"), size.get("z")
    if pixel is None or plane is None:
        return None
    n_planes = stack.numbers[-1] - stack.numbers[0] + 1
    return stack_grid(n_planes, *stack.shape_yx, pixel.um, plane.um)


def _look(found: Inspection, stack: OpenStack) -> None:
    """The middle plane, small, and which way round its values are."""
    found.picture_factor = 1 << max(max(stack.shape_yx) // PICTURE_PX, 1).bit_length() - 1
    while max(stack.shape_yx) > PICTURE_PX * found.picture_factor:
        found.picture_factor *= 2
    found.picture = small_plane(stack, stack.numbers[len(stack.numbers) // 2], found.picture_factor)
    top = 2 ** (8 * stack.dtype.itemsize) - 1
    low, middle, high = np.percentile(found.picture, (1, 50, 99))
    is_bright = high - middle <= middle - low
    if found.stack is not None:
        word = "bright background: dark is stain" if is_bright else "dark background: bright is stain"
        found.stack["polarity"] = f"{word} (1, 50, 99 % of the middle plane: {low:.0f}, {middle:.0f}, {high:.0f} of {top})"
    if not is_bright:
        remedy = "turn the values round if it is brightfield: stain is dark here"
        found.findings.append(Finding(Severity.WARNING, "polarity", "the background of the middle plane is dark", remedy=remedy))


def small_plane(stack: OpenStack, number: int, factor: int) -> NDArray[np.float64]:
    """The means of `factor` x `factor` pixels (a power of two) of a plane, read in bands of rows; what is left over at the edges is cut."""
    height, width = (n // factor * factor for n in stack.shape_yx)
    if not height or not width:
        return stack.read(number, (0, stack.shape_yx[0], 0, stack.shape_yx[1])).astype(np.float64)
    level, rows = factor.bit_length() - 1, _BAND_ROWS * factor
    bands = [block_mean(stack.read(number, (top, min(top + rows, height), 0, width)), level) for top in range(0, height, rows)]
    return np.concatenate(bands).astype(np.float64)


# ----------------------------------------------------------------------------------------------------------------- skeleton


def _skeleton(found: Inspection, system: AbstractFileSystem, entry: Entry, config: SourceConfig) -> None:
    voxel = found.grid.voxel_size_zyx_um if found.grid is not None else (1.0, 1.0, 1.0)
    try:
        skeleton = parse_swc(system.cat_file(entry.path), entry.name, SwcConvention(config.swc_unit.value, config.swc_axes.value, voxel))
    except (BrightfieldError, OSError) as error:
        found.findings.append(Finding(Severity.ERROR, "skeleton", f"not taken: {error}"))
        return
    found.traced = skeleton
    found.skeleton = {"file": entry.name, **_skeleton_facts(skeleton)}
    found.findings += skeleton.findings
    if found.grid is not None:
        _place(
            found,
            found.skeleton,
            skeleton.moved_to(swc_to_stack_um(skeleton.position_zyx_um, found.grid, config.swc_origin.value)),
            found.grid,
        )


def _place(found: Inspection, facts: dict[str, Any], placed: Skeleton, stack: Grid) -> None:
    """How a skeleton lies to the stack; one that a build would refuse is not drawn."""
    inside = stack.contains(placed.position_zyx_um).mean()
    facts["in the stack"] = f"{inside:.1%} of the nodes"
    remedy = "check voxel size, source.swc_unit, source.swc_axes and the frame of the SWC"
    if inside < 1:
        found.findings.append(Finding(Severity.WARNING, "frame", f"{1 - inside:.1%} of the nodes lie outside the stack", remedy=remedy))
    if problem := beyond_reach(placed, stack):
        found.traced = None
        found.findings.append(Finding(Severity.ERROR, "skeleton", f"not taken: {problem}", remedy=remedy))


def _skeleton_facts(skeleton: Skeleton) -> dict[str, Any]:
    low, high = skeleton.bounding_box_um
    soma = skeleton.soma
    lengths = {LABEL_NAMES.get(label, "unknown"): round(um, 1) for label, um in skeleton.path_length_um().items() if um}
    return {
        "nodes": len(skeleton),
        "trees": skeleton.n_trees,
        "soma": None
        if soma is None
        else {"xyz_um": _rounded(skeleton.position_zyx_um[soma][::-1]), "radius_um": round(float(skeleton.radius_um[soma]), 3)},
        "stems": skeleton.n_stems,
        "length_um": lengths,
        "from_xyz_um": _rounded(low[::-1]),
        "to_xyz_um": _rounded(high[::-1]),
    }


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    return [round(float(value), 3) for value in values]


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "where" in value:
        return f"{value.get('axis', '')} {_shown(value['um'])} um ({value['where']})".strip()
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ("; " if value and isinstance(value[0], dict) else ", ").join(map(_shown, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
