"""No stage of the pipeline: the configured source, copied into a folder that a mirror serves."""

from __future__ import annotations

import shutil
from pathlib import Path

from brightfield.config.options import Config
from brightfield.core.cell import cells_of
from brightfield.core.errors import CapacityError
from brightfield.sources.connect import reachable
from brightfield.sources.mirror.export import export
from brightfield.stages.query.stage import ask


def export_selected(config: Config, folder: Path, *, pictures: bool = True) -> str:
    """`export` of the cells that a configuration selects; returns what was done, in words.

    Raises CapacityError before any pixel where whole stacks are more than image.max_gb or than the disk can hold.
    """
    table, planes = ask(config)
    cells = cells_of(table[table["selected"]], planes)
    stacks = [cell.stack for cell in cells if cell.stack]
    n_bytes = sum(stack.height_px * stack.width_px * sum(plane.usable for plane in stack.planes) for stack in stacks) if pictures else 0
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if n_bytes > config.image.max_gb * 1e9 or n_bytes > free:
        raise CapacityError(
            f"{len(stacks)} whole stacks are {n_bytes / 1e9:.1f} GB of pixels; image.max_gb is {config.image.max_gb:g}, and "
            f"{free / 1e9:.1f} GB are free; name fewer cells (source.specimen_ids), raise the limit, or go without pictures"
        )
    with reachable(config) as address, address.connect() as source:
        export(source, cells, folder, pictures=pictures, threads=config.compute.connections)
    return f"{len(cells)} cells are in {folder}, {n_bytes / 1e9:.1f} GB of pixels; now `brightfield mirror serve {folder}`"
