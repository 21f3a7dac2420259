"""What a build under a configuration would fetch, before any byte of it: stands above the query, whose answer it may need."""

from __future__ import annotations

from pathlib import Path

from brightfield.built.cells import selected_cells
from brightfield.config.options import Config
from brightfield.core.cell import Cell, cells_of
from brightfield.stages.download.plan import Plan
from brightfield.stages.download.stage import plan_of
from brightfield.stages.query.stage import answer, is_built, refuse_nothing


def plan(config: Config, root: Path) -> Plan:
    """What the download stage would fetch under `config`; the source is asked for nothing that is already here."""
    return plan_of(config, root, _cells_to_plan(config, root))


def _cells_to_plan(config: Config, root: Path) -> tuple[Cell, ...]:
    """The cells of the built tables where they are of this source and selection, else what a query would answer."""
    if is_built(config, root):
        return selected_cells(root)
    cells, planes = answer(config, root)
    refuse_nothing(cells)
    return cells_of(cells[cells["selected"]], planes)
