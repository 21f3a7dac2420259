"""Your own stacks as a source: a folder, or an S3, SSH or HTTPS address, with a directory per cell; and the bucket of the 2019 challenge.

Credentials come from the environment or the cloud's own configuration (fsspec finds them there); none is ever written anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Crop, Plane, Stack, check_stack_size
from brightfield.core.codes import FULL_AXON_UM, Label, Severity
from brightfield.core.errors import BrightfieldError, SkeletonError, SourceError, StackError, TransferError
from brightfield.core.markers import parse_markers
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import parse_swc
from brightfield.core.swc_convention import SwcConvention
from brightfield.core.urls import public_text, public_url
from brightfield.sources.folder.axes import Choice
from brightfield.sources.folder.calibration import voxel_um
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.metadata import Values, number_of, read_metadata
from brightfield.sources.folder.stacks import OpenStack, open_stack
from brightfield.volumes.pyramid import block_mean
from brightfield.volumes.ranges import without_whole_checksums

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from brightfield.config.options import SourceConfig

TEST_DIRECTORY = "TEST_DATA_SET"
"""Of the challenge's bucket: stacks without SWC."""

CHALLENGE_UM = (0.1144, 0.28)
"""Pixel and plane size of the challenge's stacks, which carry none: those of the Allen stacks that they are copies of."""


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a cell lies: its directory relative to the source, and its row of the metadata."""

    directory: str
    row: Values


class FolderSource:
    """The cells below `config.path`: a directory each, with the planes (or one stack file), an SWC and perhaps a marker file.

    A cell's number is the metadata's `specimen_id`, else the directory's name where that is a whole number, else 48 bits of the hash of
    the name: stable, whatever else is there. Raises SourceError for a place that cannot be listed and TableError for bad metadata.
    """

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._is_challenge = config.kind == "challenge"
        self._stacks: dict[int, OpenStack | None] = {}

    @property
    def base_url(self) -> str:
        """Where the source is, without credentials."""
        return public_url(self._config.path)

    def cells(self) -> Sequence[Cell]:
        """Every cell, by its number, without its stack."""
        return tuple(self._cell(specimen_id, home) for specimen_id, home in sorted(self._homes.items()))

    def complete(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The same cells with their stacks, as far as they have images that can be used."""
        return tuple(self._with_stack(cell) for cell in cells)

    def file(self, url: str) -> bytes:
        """The bytes of the file at `url`, relative to the source."""
        path = f"{self._root}/{url}"
        try:
            data: bytes = self._system.cat_file(path)
        except Exception as error:  # every file system has errors of its own
            raise TransferError(
                f"{self.base_url}/{url}: {error}", reason="cannot be read", absent=isinstance(error, FileNotFoundError)
            ) from error
        return data

    def pixels(self, cell: Cell, crop: Crop) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The pixels of a crop; above level 0 the means of 2**level x 2**level pixels, halves rounded up."""
        stack = self._stack(cell.specimen_id)
        if stack is None:
            raise StackError(f"cell {cell.specimen_id}: there are no images in {self._homes[cell.specimen_id].directory}")
        box = (crop.top, crop.top + crop.height, crop.left, crop.left + crop.width)
        place = f"{self.base_url}: cell {cell.specimen_id}, plane number {crop.plane.section_number}"
        try:
            return block_mean(stack.read(crop.plane.section_number, box), crop.level)
        except TransferError as error:
            raise TransferError(f"{place}: {error}", reason=error.reason, absent=error.absent) from error
        except StackError as error:
            raise TransferError(f"{place}: {error}", reason="the plane cannot be decoded") from error
        except OSError as error:
            raise TransferError(f"{place}: {error}", reason="the plane cannot be read") from error
        except Exception as error:  # decoders of other people's formats raise whatever they meet
            raise TransferError(f"{place}: {type(error).__name__}: {error}", reason="the plane cannot be decoded") from error

    def projection(self, cell: Cell, level: int) -> None:  # noqa: ARG002  (what other sources need)
        """None: a folder has no projection, and making one would read every pixel."""
        return

    @property
    def traffic(self) -> None:
        """Files are read, not asked for."""
        return None

    def close(self) -> None:
        """Nothing: what is being read is read to its end."""

    # ---------------------------------------------------------------------------------------------------------------- the place

    @cached_property
    def _place(self) -> tuple[AbstractFileSystem, str]:
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(self._config.path)
        except (ImportError, ValueError) as error:
            raise SourceError(f"source.path={self.base_url} cannot be opened: {error}") from error
        return without_whole_checksums(system), root.rstrip("/")

    @property
    def _system(self) -> AbstractFileSystem:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    def _list(self, directory: str) -> list[Entry]:
        """What is in a directory, by name; hidden files are left out."""
        path = f"{self._root}/{directory}".rstrip("/")
        try:
            listed = self._system.ls(path, detail=True)
        except Exception as error:  # every file system has errors of its own
            hint = "does the place exist, and do your credentials (environment, ~/.aws, ssh agent) open it?"
            raise SourceError(f"{self.base_url}/{directory} cannot be listed: {error or type(error).__name__}; {hint}") from error
        entries = (Entry(e["name"].rstrip("/"), e.get("size"), e["type"] == "directory") for e in listed if e["name"].rstrip("/") != path)
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)

    @cached_property
    def _homes(self) -> dict[int, _Home]:
        """Directories by specimen id. A specimen of the challenge that is in both halves is taken where its SWC is."""
        directories = {directory: directory.rpartition("/")[2] for directory in self._directories()}
        rows = read_metadata(self._config.metadata).of(directories.values()) if self._config.metadata else {}
        homes: dict[int, _Home] = {}
        for directory, name in directories.items():
            row = rows.get(name, {})
            specimen_id = row.get("specimen_id") or number_of(name)
            if self._is_challenge and specimen_id in homes:
                continue
            if specimen_id in homes:
                raise SourceError(f"{homes[specimen_id].directory} and {directory} are both cell {specimen_id}; correct the metadata")
            homes[specimen_id] = _Home(directory, row)
        return homes

    def _directories(self) -> list[str]:
        """Directories of cells; of the challenge, those with an SWC first."""
        names = [entry.name for entry in self._list("") if entry.is_directory]
        if not self._is_challenge:
            return names
        tests = [entry.name for entry in self._list(TEST_DIRECTORY) if entry.is_directory] if TEST_DIRECTORY in names else []
        return [name for name in names if name.isdigit()] + [f"{TEST_DIRECTORY}/{name}" for name in tests if name.isdigit()]

    # ------------------------------------------------------------------------------------------------------------------- a cell

    def _cell(self, specimen_id: int, home: _Home) -> Cell:
        """A cell with its skeleton; whatever is wrong with its files becomes its `swc_problem`, and the other cells go on."""
        cell = self._described(specimen_id, home)
        try:
            return self._with_files(cell, home.directory)
        except Exception as error:  # one odd cell never stops the folder
            return replace(cell, swc_problem=_problem(error, home.directory))

    def _described(self, specimen_id: int, home: _Home) -> Cell:
        """A cell as the metadata has it."""
        name = home.directory.rpartition("/")[2]
        assumed = {"name": name, "species": "Mus musculus" if self._is_challenge else "unknown", "donor_id": specimen_id}
        told = {key: value for key, value in home.row.items() if key not in ("directory", "pixel_um", "plane_um")}
        return Cell(**{**assumed, **told, "specimen_id": specimen_id})

    def _with_files(self, cell: Cell, directory: str) -> Cell:
        entries, name = self._list(directory), directory.rpartition("/")[2]
        markers = [entry for entry in entries if _is_marker(entry.name)]
        skeletons = [entry for entry in entries if entry.suffix == ".swc" and not _is_marker(entry.name)]
        swc, marker = (_only(found, directory, name) for found in (skeletons, markers))
        if marker is not None:
            parse_markers(self.file(url := f"{directory}/{marker.name}"), (0.0, 0.0, 0.0), url)
            cell = replace(cell, marker_url=url)
        return cell if swc is None else self._with_skeleton(cell, f"{directory}/{swc.name}")

    def _with_skeleton(self, cell: Cell, url: str) -> Cell:
        """The cell with its SWC. Its file id is a stamp of the bytes, so that another version of it is noticed."""
        data = self.file(url)
        skeleton = parse_swc(data, url, self._convention(cell.specimen_id))
        refuse_other_units(skeleton, url)
        is_full = skeleton.path_length_um()[Label.AXON] > FULL_AXON_UM
        kind = cell.reconstruction_type or ("full" if is_full else "dendrite-only")
        return replace(cell, swc_url=url, swc_file_id=_stamp(data), reconstruction_type=kind)

    def _convention(self, specimen_id: int) -> SwcConvention:
        """How the cell's SWC is meant; pixels of a stack that cannot be used count as um, for such a cell is not taken."""
        unit, axes = self._config.swc_unit.value, self._config.swc_axes.value
        if unit != "px":
            return SwcConvention(unit, axes)
        try:
            stack = self._stack(specimen_id)
            pixel_um, plane_um = (1.0, 1.0) if stack is None else self._voxel_um(stack, self._homes[specimen_id].row)
        except (StackError, TransferError):
            pixel_um, plane_um = 1.0, 1.0
        return SwcConvention(unit, axes, (plane_um, pixel_um, pixel_um))

    def _with_stack(self, cell: Cell) -> Cell:
        directory = self._homes[cell.specimen_id].directory
        try:
            opened = self._stack(cell.specimen_id)
            stack = None if opened is None else self._describe(cell.specimen_id, opened)
        except Exception as error:  # one odd cell never stops the folder
            return replace(cell, stack_problem=_problem(error, directory))
        return replace(cell, stack=stack)

    def _stack(self, specimen_id: int) -> OpenStack | None:
        if specimen_id not in self._stacks:
            directory = self._homes[specimen_id].directory
            choice = Choice(self._config.channel, self._config.time)
            self._stacks[specimen_id] = open_stack(self._system, self._list(directory), f"{self.base_url}/{directory}", choice)
        return self._stacks[specimen_id]

    def _describe(self, specimen_id: int, stack: OpenStack) -> Stack:
        """Geometry and planes; numbers without a file are missing planes. A plane's id is a stamp of its file, and of no other cell's."""
        pixel_um, plane_um = self._voxel_um(stack, self._homes[specimen_id].row)
        present = set(stack.numbers)
        first, last = stack.numbers[0], stack.numbers[-1]
        check_stack_size(first, last, *stack.shape_yx)
        planes = tuple(
            Plane(number - first, number, _stamp(f"{specimen_id}/{stack.stamp(number)}".encode()))
            if number in present
            else Plane(number - first, number, None, usable=False, reason="there is no file for this plane")
            for number in range(first, last + 1)
        )
        height, width = stack.shape_yx
        return Stack(specimen_id, width, height, pixel_um, plane_um, planes, bits=8 * stack.dtype.itemsize)

    def _voxel_um(self, stack: OpenStack, row: Values) -> tuple[float, float]:
        """Pixel and plane size: the metadata's, else the configuration's, else the files'. Raises StackError where none says."""
        told_pixel, told_plane = row.get("pixel_um") or self._config.pixel_um, row.get("plane_um") or self._config.plane_um
        size = voxel_um(stack.statements, pixel_um=told_pixel, plane_um=told_plane)
        known = CHALLENGE_UM if self._is_challenge else (0.0, 0.0)
        pixel, plane = size.get("x") or size.get("y"), size.get("z")
        pixel_um, plane_um = pixel.um if pixel else known[0], plane.um if plane else known[1]
        for value, key in ((pixel_um, "pixel_um"), (plane_um, "plane_um")):
            if not value:
                heard = f" ({'; '.join(stack.statements.notes)})" if stack.statements.notes else ""
                raise StackError(f"the files do not say their {key}{heard}; set source.{key} to it, in um")
        return pixel_um, plane_um


def refuse_other_units(skeleton: Skeleton, url: str) -> None:
    """Raise SkeletonError where the file states another unit or scale than it was read with."""
    for finding in skeleton.findings:
        if finding.severity == Severity.ERROR:
            raise SkeletonError(f"{finding.message}; {finding.remedy}", path=url)


def _problem(error: Exception, directory: str) -> str:
    """Why a cell is not taken, naming the file where the error does, else the directory."""
    text = public_text(str(error)) or type(error).__name__
    name = directory.rpartition("/")[2]
    named = isinstance(error, BrightfieldError) and name in text
    return text if named else f"{directory}: {text if isinstance(error, BrightfieldError) else f'{type(error).__name__}: {text}'}"


def _is_marker(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(".marker") or (lower.endswith(".swc") and "marker" in lower)


def _only(found: Sequence[Entry], directory: str, name: str) -> Entry | None:
    """The one file, or of several the one that is named as the directory."""
    named = [entry for entry in found if entry.name.rpartition(".")[0] == name]
    if len(found) > 1 and len(named) != 1:
        raise SourceError(f"{directory} has {len(found)} files such as {found[0].name} and {found[1].name}; keep one, or name it {name}")
    return next(iter(named or found), None)


def _stamp(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:7])
