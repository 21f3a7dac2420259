"""Stage 2: the skeletons, and the pixels around them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from brightfield.built.cells import selected_cells, swc_convention
from brightfield.config.options import Config, CoverageKind, Scheduler, SourceKind
from brightfield.config.params import source_name
from brightfield.core.cell import Cell
from brightfield.core.errors import BrightfieldError, CellFailures
from brightfield.core.layout import IMAGES_DIR, SKELETONS_DIR, image_store, marker_file, skeleton_file
from brightfield.core.schema import TILES
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import parse_swc, read_swc
from brightfield.core.tables import write_table
from brightfield.run.engine import Engine, progress
from brightfield.run.workcache import CellTask, WorkCache, work_root
from brightfield.sources.connect import Address, reachable
from brightfield.sources.source import Source, interruptible
from brightfield.stages.download.plan import JPEG_TILES, STACK_FILES, CellPlan, Plan, plan_cell
from brightfield.stages.download.transfer import IMAGE_NAME, download_cell

ALGORITHM = "1"
"""Of what is fetched and how it is laid out. Raised by hand: an edit of the code must not fetch terabytes again."""

PROJECTION_LEVEL = 5
"""Of the minimum projection that background tiles are chosen by: 3.7 um a pixel."""


def run(config: Config, root: Path) -> None:
    """Fetch what is missing; raises CellFailures at the end when cells failed, with all others finished."""
    cells = {cell.specimen_id: cell for cell in selected_cells(root)}
    with reachable(config) as address:
        failures = _fetch_skeletons(config, root, cells, address)
        cells = {specimen_id: cell for specimen_id, cell in cells.items() if specimen_id not in failures and cell.stack is not None}
        plans, unplanned = _plans(config, root, cells, address)
        failures |= unplanned
        failures |= _fetch_images(config, root, cells, plans, address)
    if failures and not config.download.allow_missing:
        raise CellFailures("download", failures, remedy="run again to retry only these, or set download.allow_missing=true to go without")
    for specimen_id, reason in failures.items():
        print(f"download: went without cell {specimen_id}: {reason}")


def plan_of(config: Config, root: Path, cells: Sequence[Cell]) -> Plan:
    """What `run` would fetch of `cells`, before any pixel: asks the source only for what is not already here."""
    wanted = {cell.specimen_id: cell for cell in cells if cell.stack is not None}
    with reachable(config) as address:
        plans, failures = _plans(config, root, wanted, address)
    cache = _image_cache(config, root)
    there = {i for i, task in _image_tasks(config, root, wanted, plans, address).items() if cache.has(i, task)}
    return replace(_capacity(config, root, plans, there), failures=failures)


# -------------------------------------------------------------------------------------------------------------- skeletons


def _fetch_skeletons(config: Config, root: Path, cells: Mapping[int, Cell], address: Address) -> dict[int, str]:
    cache = WorkCache(root, "skeletons", (SKELETONS_DIR,), config.compute.work_dir, algorithm=ALGORITHM)
    name = source_name(config.source)
    tasks = {
        i: CellTask({"source": name, "swc": [cell.swc_file_id, cell.swc_url], "marker": cell.marker_url}, fetch_files, (cell, address))
        for i, cell in cells.items()
    }
    return _run(cache, tasks, _engine(config, "skeletons"))


def fetch_files(root: Path, cell: Cell, address: Address) -> None:
    """The SWC and marker file of a cell, the source's bytes; an SWC that cannot be read fails the cell."""
    with address.connect() as source:
        swc = source.file(str(cell.swc_url))
        parse_swc(swc, f"cell {cell.specimen_id}: {cell.swc_url}")
        (root / SKELETONS_DIR).mkdir(parents=True)
        (root / skeleton_file(cell.specimen_id)).write_bytes(swc)
        if cell.marker_url:
            (root / marker_file(cell.specimen_id)).write_bytes(source.file(cell.marker_url))


def _skeleton(config: Config, cell: Cell, source: Source, root: Path) -> Skeleton:
    path = root / skeleton_file(cell.specimen_id)
    convention = swc_convention(config.source, (1.0, 1.0, 1.0) if cell.stack is None else cell.stack.grid.voxel_size_zyx_um)
    if path.is_file():
        return read_swc(path, convention)
    return parse_swc(source.file(str(cell.swc_url)), f"cell {cell.specimen_id}: {cell.swc_url}", convention)


# ------------------------------------------------------------------------------------------------------------------- plan


def _plans(config: Config, root: Path, cells: Mapping[int, Cell], address: Address) -> tuple[dict[int, CellPlan], dict[int, str]]:
    """The plans of the cells, and why there is none of the others."""
    image, origin = config.image, config.source.swc_origin
    wants_projection = image.coverage is CoverageKind.skeleton and image.background_share > 0
    failures: dict[int, str] = {}

    def plan_one(cell: Cell) -> CellPlan | None:
        try:
            projection = source.projection(cell, PROJECTION_LEVEL) if wants_projection else None
            return plan_cell(cell, _skeleton(config, cell, source, root), image, projection, swc_origin=origin)
        except BrightfieldError as error:
            failures[cell.specimen_id] = f"it cannot be planned: {error}"
            return None

    with address.connect() as source, ThreadPoolExecutor(config.compute.connections) as pool, interruptible(source):
        plans = dict(zip(cells, pool.map(plan_one, cells.values()), strict=True))
    return {i: found for i, found in plans.items() if found is not None}, dict(sorted(failures.items()))


def _capacity(config: Config, root: Path, plans: Mapping[int, CellPlan], there: set[int]) -> Plan:
    home = work_root(root, config.compute.work_dir)
    existing = next(path for path in (home, *home.parents) if path.exists())
    wire = JPEG_TILES if config.source.kind in (SourceKind.demo, SourceKind.allen) else STACK_FILES
    return Plan(tuple(plans.values()), frozenset(there), shutil.disk_usage(existing).free, config.image.max_gb, wire)


# ----------------------------------------------------------------------------------------------------------------- pixels


def _fetch_images(config: Config, root: Path, cells: Mapping[int, Cell], plans: Mapping[int, CellPlan], address: Address) -> dict[int, str]:
    cache = _image_cache(config, root)
    tasks = _image_tasks(config, root, cells, plans, address)
    there = {i for i, task in tasks.items() if cache.has(i, task)}
    todo = _capacity(config, root, plans, there)
    todo.check_capacity()
    with progress(todo.totals["bytes_todo"], "images", "B") as advance:
        tasks = _image_tasks(config, root, cells, plans, address, advance if config.compute.scheduler == Scheduler.local else None)
        failures = _run(cache, tasks, _engine(config, "images"))
    for specimen_id in tasks.keys() - failures.keys():
        shutil.rmtree(_partial(_partials(config, root), plans[specimen_id]), ignore_errors=True)
    return failures


def _partials(config: Config, root: Path) -> Path:
    return work_root(root, config.compute.work_dir) / "partial"


def _image_cache(config: Config, root: Path) -> WorkCache:
    return WorkCache(root, "download", (IMAGES_DIR, TILES), config.compute.work_dir, algorithm=ALGORITHM)


def _image_tasks(
    config: Config,
    root: Path,
    cells: Mapping[int, Cell],
    plans: Mapping[int, CellPlan],
    address: Address,
    advance: Callable[[int], object] | None = None,
) -> dict[int, CellTask]:
    return {i: _image_task(config, cells[i], plan, address, _partials(config, root), advance) for i, plan in plans.items()}


def _image_task(
    config: Config, cell: Cell, plan: CellPlan, address: Address, partial: Path, advance: Callable[[int], object] | None
) -> CellTask:
    z, y, x = config.image.chunk_zyx
    attributes = {"specimen_id": cell.specimen_id, "source": source_name(config.source), "image_series_id": _series(cell)}
    attributes |= {"level": plan.level, "z_step": plan.z_step, "jpeg_quality": config.image.quality}
    options = {"chunk_zyx": (z, y, x), "attributes": attributes, "allow_missing": config.download.allow_missing}
    planes = [] if cell.stack is None else [(p.sub_image_id, p.section_number, p.usable, p.reason) for p in cell.stack.planes]
    key = {"plan": plan.digest, "planes": planes, **options}
    return CellTask(key, fetch_image, (cell, plan, address, partial, options, advance))


def _series(cell: Cell) -> int | None:
    return None if cell.stack is None else cell.stack.image_series_id


def fetch_image(
    root: Path,
    cell: Cell,
    plan: CellPlan,
    address: Address,
    partial: Path,
    options: dict[str, Any],
    advance: Callable[[int], object] | None,
) -> None:
    """The image of one cell with its ledger. What was fetched before a kill waits in `partial` and is not fetched again.

    The image is linked and not moved, so that it is there until the work cache has published the cell.
    """
    directory = _partial(partial, plan)
    with address.connect() as source:
        ledger = download_cell(cell, plan, source, directory, connections=address.compute.connections, progress=advance, **options)
    shutil.copytree(directory / IMAGE_NAME, root / image_store(cell.specimen_id), copy_function=os.link)
    write_table(TILES, ledger, root)


def _partial(partial: Path, plan: CellPlan) -> Path:
    return partial / f"{plan.specimen_id}-{plan.digest[:16]}"


# ---------------------------------------------------------------------------------------------------------------- running


def _engine(config: Config, label: str) -> Engine:
    """Locally one process whose threads share the connections and their limits; on a cluster, workers that divide them."""
    is_local = config.compute.scheduler == Scheduler.local
    return Engine(replace(config.compute, workers=1) if is_local else config.compute, label)


def _run(cache: WorkCache, tasks: Mapping[int, CellTask], engine: Engine) -> dict[int, str]:
    """Run a cache's tasks; returns the failures."""
    try:
        done = cache.run(tasks, engine.map)
    except CellFailures as failures:
        return failures.reasons
    print(f"{cache.stage}: {done}")
    return {}
