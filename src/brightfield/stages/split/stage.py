"""Stage 5: which side every cell is on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from brightfield.config.options import Config
from brightfield.core.keys import BEFORE_SPLIT, read_failures
from brightfield.core.layout import skeleton_file
from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, SPLITS
from brightfield.core.tables import read_table, write_table
from brightfield.splitting.assign import assign
from brightfield.splitting.salt import search_salt


def run(config: Config, root: Path) -> None:
    """Write the splits table; raises SplitError where cells of one group would be parted."""
    cells = read_table(CELLS, root)
    hashes = {
        i: _sha256(root / skeleton_file(i)) for i in cells.loc[cells["selected"], "specimen_id"] if (root / skeleton_file(i)).is_file()
    }
    failures = read_failures(root, BEFORE_SPLIT)
    splits = assign(cells, config.split, swc_sha256=hashes, alignment=read_table(ALIGNMENT_CELLS, root), failures=failures)
    write_table(SPLITS, splits, root)
    counts = splits["split"].value_counts().sort_index()
    print("split: " + ", ".join(f"{n} {side}" for side, n in counts.items()))


def best_salt(config: Config, root: Path, candidates: int) -> str:
    """Search the salt for the selected cells of the built tables, and say how to take it."""
    cells = read_table(CELLS, root)
    found = search_salt(cells[cells["selected"]], config.split, candidates=candidates)
    return (
        f"split.salt={found.salt} split.val_salt={found.val_salt}: the worst stratum is {found.deviation_points:.1f} points off "
        f"({found.candidates} candidates each)\n"
        f"take them before anything is published: brightfield config split.salt={found.salt} split.val_salt={found.val_salt}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
