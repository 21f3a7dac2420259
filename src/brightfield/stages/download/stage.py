"""Stage 2: the skeletons, and the pixels around them.

The work cache is asked before the source: a cell that is finished needs no plan, and a run that finds all of them asks the source nothing.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brightfield.built.cells import selected_cells, swc_convention
from brightfield.config.options import Config, CoverageKind, OnFailure, Scheduler, SourceKind
from brightfield.config.params import published_name, source_name
from brightfield.core.cell import Cell, Stack
from brightfield.core.errors import BrightfieldError, CellFailures
from brightfield.core.files import link, sha256_file
from brightfield.core.layout import IMAGES_DIR, SKELETONS_DIR, image_store, marker_file, skeleton_file
from brightfield.core.schema import TILES
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import parse_swc, read_swc
from brightfield.core.tables import read_table, write_table
from brightfield.run.collect import PARTIAL, work_root
from brightfield.run.engine import Engine
from brightfield.run.progress import progress
from brightfield.run.workcache import CellTask, Look, WorkCache
from brightfield.sources.connect import Address, reachable
from brightfield.sources.source import Source, interruptible
from brightfield.stages.download.estimate import JPEG_TILES, STACK_FILES, CellSums, Plan
from brightfield.stages.download.plan import CellPlan, plan_cell, plan_inputs, plan_of_tiles
from brightfield.stages.download.traffic import clocked, counted

ALGORITHM = "2"
"""Of what is planned, fetched and how it is laid out. Raised by hand: an edit of the code must not fetch terabytes again."""

PROJECTION_LEVEL = 5
"""Of the minimum projection that background tiles are chosen by: 3.7 um a pixel."""

type AskAddress = Callable[[], Address]
"""Gives the address of the source; the demo's mirror starts when it is first called."""


def run(config: Config, root: Path) -> None:
    """Fetch what is missing; raises CellFailures at the end when cells failed, with all others finished."""
    cells = {cell.specimen_id: cell for cell in selected_cells(root)}
    with _reachable_when_asked(config) as address:
        skeletons = _skeleton_cache(config, root)
        tasks = _skeleton_tasks(config, cells, address)
        failures = _run(skeletons, tasks, config, label="skeletons")
        swcs = {i: skeletons.place(i, tasks[i]) / skeleton_file(i) for i in cells if i not in failures and cells[i].stack is not None}
        failures |= _fetch_images(config, root, {i: cells[i] for i in swcs}, swcs, address, failures)
    if failures and config.download.on_failure is OnFailure.stop:
        remedy = "run again to retry only these, or go on without them: brightfield config download.on_failure=exclude"
        raise CellFailures("download", _named(failures, cells, config), remedy=remedy)


def plan_of(config: Config, root: Path, cells: Sequence[Cell]) -> Plan:
    """What `run` would fetch of `cells`, before any pixel: asks the source only for what is not already here."""
    wanted = {cell.specimen_id: cell for cell in cells if cell.stack is not None}
    with _reachable_when_asked(config) as address:
        skeletons = _skeleton_cache(config, root)
        tasks = _skeleton_tasks(config, wanted, address)
        swcs = {i: skeletons.place(i, tasks[i]) / skeleton_file(i) for i in skeletons.look(tasks).there}
        images = _image_cache(config, root)
        there = images.look({i: _image_task(config, wanted[i], swc) for i, swc in swcs.items()}).there
        missing = {i: cell for i, cell in wanted.items() if i not in there}
        planned, failures = _planned(config, missing, swcs, address, CellSums.of)
    sums = [*planned.values(), *_sums_found(config, wanted, there)]
    return replace(_whole(config, root, sums, there), failures=_named(failures, wanted, config))


@contextmanager
def _reachable_when_asked(config: Config) -> Iterator[AskAddress]:
    with ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(reachable(config)))


# -------------------------------------------------------------------------------------------------------------- skeletons


def _skeleton_cache(config: Config, root: Path) -> WorkCache:
    return WorkCache(root, "skeletons", (SKELETONS_DIR,), config.compute.work_dir, algorithm="1")


def _skeleton_tasks(config: Config, cells: Mapping[int, Cell], address: AskAddress) -> dict[int, CellTask]:
    name = source_name(config.source)
    keys = {i: {"source": name, "swc": [cell.swc_file_id, cell.swc_url], "marker": cell.marker_url} for i, cell in cells.items()}
    return {i: CellTask(keys[i], fetch_files, functools.partial(_cell_at, cell, address)) for i, cell in cells.items()}


def _cell_at(cell: Cell, address: AskAddress) -> tuple[Cell, Address]:
    return cell, address()


def fetch_files(root: Path, cell: Cell, address: Address) -> None:
    """The SWC and marker file of a cell, the source's bytes; an SWC that cannot be read fails the cell."""
    with address.connect() as source:
        swc = source.file(str(cell.swc_url))
        parse_swc(swc, f"cell {cell.specimen_id}: {cell.swc_url}")
        (root / SKELETONS_DIR).mkdir(parents=True)
        (root / skeleton_file(cell.specimen_id)).write_bytes(swc)
        if cell.marker_url:
            (root / marker_file(cell.specimen_id)).write_bytes(source.file(cell.marker_url))


# ------------------------------------------------------------------------------------------------------------------- plan


def _planned[T](
    config: Config, cells: Mapping[int, Cell], swcs: Mapping[int, Path], address: AskAddress, keep: Callable[[CellPlan], T]
) -> tuple[dict[int, T], dict[int, str]]:
    """What `keep` makes of the plan of each cell, and why there is none of the others. swcs: the skeletons that are here already."""
    if not cells:
        return {}, {}
    failures: dict[int, str] = {}

    def plan_one(cell: Cell) -> T | None:
        try:
            return keep(_plan(config, cell, source, swcs.get(cell.specimen_id)))
        except BrightfieldError as error:
            failures[cell.specimen_id] = f"it cannot be planned: {error}"
            return None

    with ExitStack() as stack:
        source = stack.enter_context(address().connect())
        pool = stack.enter_context(ThreadPoolExecutor(config.compute.connections))
        advance = stack.enter_context(progress(len(cells), "plans", "cell"))
        stack.enter_context(interruptible(source))
        found: dict[int, T] = {}
        for i, kept in zip(cells, pool.map(plan_one, cells.values()), strict=True):
            advance(1)
            if kept is not None:
                found[i] = kept
    return found, dict(sorted(failures.items()))


def _plan(config: Config, cell: Cell, source: Source, swc: Path | None) -> CellPlan:
    image = config.image
    wants_projection = image.coverage is CoverageKind.skeleton and image.background_share > 0
    projection = source.projection(cell, PROJECTION_LEVEL) if wants_projection else None
    return plan_cell(cell, _skeleton(config, cell, source, swc), image, projection, swc_origin=config.source.swc_origin)


def _skeleton(config: Config, cell: Cell, source: Source, swc: Path | None) -> Skeleton:
    convention = swc_convention(config.source, (1.0, 1.0, 1.0) if cell.stack is None else cell.stack.grid.voxel_size_zyx_um)
    if swc is not None:
        return read_swc(swc, convention)
    return parse_swc(source.file(str(cell.swc_url)), f"cell {cell.specimen_id}: {cell.swc_url}", convention)


def _sums_found(config: Config, cells: Mapping[int, Cell], there: Mapping[int, Path]) -> Iterator[CellSums]:
    """The sums of finished images, from their ledgers."""
    for i, directory in there.items():
        yield CellSums.of(plan_of_tiles(i, _stack(cells[i]), read_table(TILES, directory), config.image))


def _bytes_of(finished: Iterable[Path]) -> int:
    """Uncompressed bytes of finished images, from their ledgers."""
    tiles = (read_table(TILES, directory, columns=["bytes", "state"]) for directory in finished)
    return sum(int(of_cell.loc[of_cell["state"] == "ok", "bytes"].sum()) for of_cell in tiles)


def _whole(config: Config, root: Path, sums: Iterable[CellSums], there: Iterable[int]) -> Plan:
    home = work_root(root, config.compute.work_dir)
    existing = next(path for path in (home, *home.parents) if path.exists())
    wire = JPEG_TILES if config.source.kind in (SourceKind.demo, SourceKind.allen) else STACK_FILES
    return Plan(tuple(sums), frozenset(there), shutil.disk_usage(existing).free, config.image.max_gb, wire=wire)


# ----------------------------------------------------------------------------------------------------------------- pixels


def _fetch_images(
    config: Config, root: Path, cells: Mapping[int, Cell], swcs: Mapping[int, Path], address: AskAddress, failed: Mapping[int, str]
) -> dict[int, str]:
    """Fetch the images that are missing; failed: cells without a skeleton, which count among those that fail here."""
    cache = _image_cache(config, root)
    tasks = {i: _image_task(config, cell, swcs[i]) for i, cell in cells.items()}
    look = cache.look(tasks)
    planned, unplanned = _planned(config, {i: cells[i] for i in look.missing}, swcs, address, _Waiting.of)
    partials = {i: work_root(root, config.compute.work_dir) / PARTIAL / f"{i}-{cache.place(i, tasks[i]).name[:16]}" for i in planned}
    expected = _whole(config, root, [waiting.sums for waiting in planned.values()], ())
    if planned:
        replace(expected, bytes_there=_bytes_of(look.there.values())).check_capacity()
    with clocked(partials.values(), expected, config), progress(expected.totals["bytes"], "images", "B") as advance:
        told = advance if config.compute.scheduler == Scheduler.local else None
        for i, waiting in planned.items():
            args = (cells[i], waiting.plan, address(), partials[i], _options(config, cells[i]), told)
            tasks[i] = replace(tasks[i], args=args)
        todo = {i: task for i, task in tasks.items() if i not in unplanned}
        failures = _run(cache, todo, config, label="images", failed={**failed, **unplanned}, look=look)
    for i in planned.keys() - failures.keys():
        shutil.rmtree(partials[i], ignore_errors=True)
    return failures


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A plan that waits for its turn, packed, with its sums."""

    sums: CellSums
    plan: bytes

    @classmethod
    def of(cls, plan: CellPlan) -> _Waiting:
        return cls(CellSums.of(plan), plan.packed())


def _image_cache(config: Config, root: Path) -> WorkCache:
    return WorkCache(root, "download", (IMAGES_DIR, TILES), config.compute.work_dir, algorithm=ALGORITHM)


def _image_task(config: Config, cell: Cell, swc: Path) -> CellTask:
    """The work of one cell by what decides it; what it takes to do it is added where it must be done."""
    stack = _stack(cell)
    planes = [(p.sub_image_id, p.section_number, p.usable, p.reason) for p in stack.planes]
    facts = [stack.width_px, stack.height_px, stack.pixel_um, stack.plane_um, stack.bits, stack.projection_id]
    plan = plan_inputs(stack, config.image, config.source, sha256_file(swc))
    key = {"plan": plan, "stack": facts, "planes": planes, **_options(config, cell)}
    if key["attributes"]["source"] != (place := source_name(config.source)):
        key["place"] = place
    return CellTask(key, fetch_image)


def _options(config: Config, cell: Cell) -> dict[str, Any]:
    """How the image is written."""
    z, y, x = config.image.chunk_zyx
    attributes = {"specimen_id": cell.specimen_id, "source": published_name(config.source), "image_series_id": _stack(cell).image_series_id}
    attributes |= {"level": config.image.level, "z_step": config.image.z_step, "jpeg_quality": config.image.quality}
    return {"chunk_zyx": (z, y, x), "attributes": attributes, "allow_missing": config.download.allow_missing}


def _stack(cell: Cell) -> Stack:
    if cell.stack is None:
        raise ValueError(f"cell {cell.specimen_id} has no stack: it is never asked for pixels")
    return cell.stack


def fetch_image(
    root: Path,
    cell: Cell,
    packed: bytes,
    address: Address,
    partial: Path,
    options: dict[str, Any],
    advance: Callable[[int], object] | None,
) -> None:
    """The image of one cell with its ledger. What was fetched before a kill waits in `partial` and is not fetched again.

    packed: the plan. What the source was asked for is left in `partial`, for `traffic.clocked`.

    The image is linked and not moved, so that it is there until the work cache has published the cell.
    """
    from brightfield.stages.download.transfer import IMAGE_NAME, download_cell  # loads the compiler: most runs find all cells finished

    with address.connect() as source, counted(source, partial):
        plan = CellPlan.unpacked(packed)
        ledger = download_cell(cell, plan, source, partial, connections=address.compute.connections, progress=advance, **options)
    shutil.copytree(partial / IMAGE_NAME, root / image_store(cell.specimen_id), copy_function=_link)
    write_table(TILES, ledger, root)


def _link(source: str, target: str) -> None:
    link(Path(source), target)


# ---------------------------------------------------------------------------------------------------------------- running


def _run(
    cache: WorkCache,
    tasks: Mapping[int, CellTask],
    config: Config,
    *,
    label: str,
    failed: Mapping[int, str] | None = None,
    look: Look | None = None,
) -> dict[int, str]:
    """Run a cache's tasks; returns the failures. Raises CellFailures where the dataset may go without cells, but not without all.

    Locally one process whose threads share the connections and their limits; on a cluster, workers that divide them.
    """
    is_local = config.compute.scheduler is Scheduler.local
    engine = Engine(replace(config.compute, workers=1) if is_local else config.compute, label)
    try:
        done = cache.run(tasks, engine.map, on_failure=config.download.on_failure, failed=failed, look=look)
    except CellFailures as failures:
        if config.download.on_failure is OnFailure.exclude:
            raise
        return failures.reasons
    print(f"{cache.stage}: {done}")
    return done.failures


def _named(failures: Mapping[int, str], cells: Mapping[int, Cell], config: Config) -> dict[int, str]:
    """Failures of own cells with the directory they are in: their numbers may be made from it."""
    if config.source.kind not in (SourceKind.folder, SourceKind.challenge):
        return dict(failures)
    return {i: f"{_directory(cells[i])}: {reason}" if i in cells else reason for i, reason in failures.items()}


def _directory(cell: Cell) -> str:
    return str(cell.swc_url or cell.name).rpartition("/")[0] or cell.name
