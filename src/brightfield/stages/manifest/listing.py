"""Every file of the dataset is named and hashed: volumes and skeletons by the manifest, all others by `data/files.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from brightfield.built.dataset import Dataset
from brightfield.core.codes import Finding
from brightfield.core.files import sha256_file, write_json
from brightfield.core.keys import BY_CELL
from brightfield.core.layout import (
    CARD_FILE,
    CHECKS_FILE,
    CROISSANT_FILE,
    DATA_DIR,
    FILES_FILE,
    SOURCE_KEY_FILE,
    SWC_UNITS,
    keys_file,
    swc_export_file,
)
from brightfield.core.schema import NODES, TABLES
from brightfield.core.tables import read_table
from brightfield.stages.manifest.findings import error_of
from brightfield.stages.manifest.hub import hub_files
from brightfield.stages.manifest.table import named_files

NOT_DATA = {".gitignore"}
"""Files below data/ that are in git."""


def other_files(root: Path) -> list[Path]:
    """The files of the dataset at `root` that its manifest does not name, save the list itself; cells that have nodes have exports."""
    described = read_table(NODES, root, columns=["specimen_id"])["specimen_id"].unique().tolist()
    return [
        *(table.path for table in TABLES),
        *(CARD_FILE, CROISSANT_FILE, CHECKS_FILE, SOURCE_KEY_FILE),
        *map(keys_file, BY_CELL),
        *(swc_export_file(specimen_id, unit) for specimen_id, unit in product(described, SWC_UNITS)),
        *hub_files(),
    ]


def write_listing(root: Path) -> Path:
    """Write the list, with the sha256 of every file that it names; the last file of a build."""
    return write_json(root / FILES_FILE, {path.as_posix(): sha256_file(root / path) for path in other_files(root)})


def check_files(dataset: Dataset) -> Iterator[Finding]:
    """Every file that the list names has its bytes, and the list names every file that a dataset has."""
    path = dataset.root / FILES_FILE
    try:
        text = path.read_text(encoding="utf-8")
        listed: dict[str, str] = dict(json.loads(text))
    except (OSError, ValueError, TypeError) as error:
        yield error_of("files", f"{FILES_FILE} cannot be read: {error}")
        return
    if text != json.dumps(listed, sort_keys=True, indent=0) + "\n":
        yield error_of("files", f"{FILES_FILE} is not as it was written")
    for name, expected in listed.items():
        target = dataset.root / name
        if not target.is_file():
            yield error_of("files", f"{name} is not there", remedy=f"fetch it with `dvc pull {name}`")
        elif sha256_file(target) != expected:
            yield error_of("files", f"{name} does not have the bytes that {FILES_FILE} says")
    for file in other_files(dataset.root):
        if file.as_posix() not in listed:
            yield error_of("files", f"{file} is not in {FILES_FILE}")


def check_orphans(dataset: Dataset) -> Iterator[Finding]:
    """Nothing lies among the data that neither the manifest nor the list names."""
    named = {path for _, _, path, _ in named_files(dataset.manifest)}
    stores = {path for path in named if path.endswith(".zarr")}
    known = named | {path.as_posix() for path in other_files(dataset.root)} | {FILES_FILE.as_posix()}
    for path in _unnamed(dataset.root / DATA_DIR, dataset.root, stores, known):
        yield error_of("orphans", f"{path} is named by no table", remedy="remove it, or keep it outside of data/")


def _unnamed(folder: Path, root: Path, stores: set[str], known: set[str]) -> Iterator[str]:
    """Files that are not known, and whole volumes that are not."""
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if name in stores or name in known or path.name in NOT_DATA:
            continue
        if path.is_dir() and path.suffix != ".zarr":
            yield from _unnamed(path, root, stores, known)
        else:
            yield name
