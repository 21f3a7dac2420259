"""What a build under a configuration would fetch, before any byte of it: stands above the query, whose answer it may need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.config.options import Config
from brightfield.core.cell import cells_of
from brightfield.core.schema import CELLS, PLANES
from brightfield.core.tables import read_table
from brightfield.stages.download.estimate import Pace, Plan
from brightfield.stages.download.stage import plan_of
from brightfield.stages.query.selection import left_out
from brightfield.stages.query.stage import answer, is_built, refuse_nothing

__all__ = ["Pace", "Plan", "plan"]

if TYPE_CHECKING:
    import pandas as pd


def plan(config: Config, root: Path) -> Plan:
    """What the download stage would fetch under `config`; the source is asked for nothing that is already here."""
    cells, planes = _tables(config, root)
    refuse_nothing(cells)
    found = plan_of(config, root, cells_of(cells[cells["selected"]], planes))
    return replace(found, left_out=tuple(left_out(cells)))


def _tables(config: Config, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The built tables where they are of this source and selection, else what a query would answer."""
    return (read_table(CELLS, root), read_table(PLANES, root)) if is_built(config, root) else answer(config, root)
