"""Stage 1: which cells there are, which the dataset takes, and why it does not take the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.config.options import Config, SourceConfig, SourceKind
from brightfield.config.params import section_digest, source_name
from brightfield.core.errors import ConfigError, SourceError
from brightfield.core.files import write_json
from brightfield.core.layout import DATA_DIR, SNAPSHOT_DIR, SOURCE_KEY_FILE
from brightfield.core.schema import CELLS, PLANES
from brightfield.core.tables import read_table, write_table
from brightfield.sources.connect import reachable
from brightfield.stages.query.selection import drift, left_out, reasons_of, reselect, survey

if TYPE_CHECKING:
    import pandas as pd


def run(config: Config, root: Path) -> None:
    """Write the cells and planes tables, from the committed snapshot where there is one, else from the source; and what they are of."""
    cells, planes = answer(config, root)
    refuse_nothing(cells)
    write_table(CELLS, cells, root)
    write_table(PLANES, planes, root)
    write_json(root / SOURCE_KEY_FILE, {"source": section_digest(config, ("source",))})
    print("\n".join([f"query: {int(cells['selected'].sum())} of {len(cells)} cells selected", *left_out(cells)]))


def answer(config: Config, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells and planes tables of a configuration: from the committed snapshot where there is one, else from the source."""
    return _from_snapshot(config, root) if _has_snapshot(root) else ask(config)


def is_built(config: Config, root: Path) -> bool:
    """Whether the cells table below `root` is of the configured source and selection: judged by what the query recorded beside it."""
    try:
        recorded = json.loads((root / SOURCE_KEY_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return recorded == {"source": section_digest(config, ("source",))} and (root / CELLS.path).is_file()


def refuse_nothing(cells: pd.DataFrame) -> None:
    """Raise SourceError, with the reasons, when no cell is selected."""
    if not cells["selected"].any():
        reasons = "; ".join(f"{n} x {reason}" for reason, n in reasons_of(cells).items())
        raise SourceError(f"no cell of {len(cells)} is selected: {reasons or 'the source has none'}. See `source` in the configuration")


def refresh(config: Config, root: Path, *, write: bool) -> str:
    """Ask the source again and tell what changed since the snapshot (or, without one, since the last build); `write` takes the answer."""
    cells, planes = ask(config)
    known = root / SNAPSHOT_DIR if _has_snapshot(root) else root
    before = read_table(CELLS, known) if (known / CELLS.path).is_file() else None
    told = f"{len(cells)} cells, nothing to compare with" if before is None else str(drift(before, cells))
    lines = [told, f"selected: {int(cells['selected'].sum())} of {len(cells)} cells; left out:", *left_out(cells)]
    if write:
        write_table(CELLS, cells, root / SNAPSHOT_DIR)
        write_table(PLANES, planes, root / SNAPSHOT_DIR)
        write_json(root / SNAPSHOT_DIR / SOURCE_KEY_FILE, _identity(config.source))
        return "\n".join(
            [*lines, f"wrote {SNAPSHOT_DIR}/; next: git add {SNAPSHOT_DIR} && git commit -m 'Snapshot of the source' && dvc repro"]
        )
    return "\n".join([*lines, "next: brightfield refresh --write"])


def ask(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells and planes tables as the source answers now."""
    with reachable(config) as address, address.connect() as source:
        return survey(source, config.source, config.image)


def _has_snapshot(root: Path) -> bool:
    return (root / SNAPSHOT_DIR / CELLS.path).is_file()


def _from_snapshot(config: Config, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The snapshot under the present selection. Raises ConfigError where it was taken of another source."""
    recorded = root / SNAPSHOT_DIR / SOURCE_KEY_FILE
    taken_of = json.loads(recorded.read_text(encoding="utf-8")) if recorded.is_file() else None
    if taken_of != _identity(config.source):
        raise ConfigError(
            f"{SNAPSHOT_DIR}/ is of {'another source' if taken_of is None else taken_of}, and the configuration asks for "
            f"{_identity(config.source)}; run `brightfield refresh --write`, or remove {SNAPSHOT_DIR / DATA_DIR}/"
        )
    cells, planes = read_table(CELLS, root / SNAPSHOT_DIR), read_table(PLANES, root / SNAPSHOT_DIR)
    return reselect(cells, planes, config.source, config.image)


def _identity(source: SourceConfig) -> dict[str, str | int]:
    """What makes a source another one; an address of the same service or of its mirror does not."""
    own = {"path": source_name(source)} if source.kind in (SourceKind.folder, SourceKind.challenge) else {}
    return {"kind": str(source.kind), **own, **({"seed": source.seed} if source.kind is SourceKind.demo else {})}
