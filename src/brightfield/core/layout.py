"""Where the files of a dataset lie. Nothing else spells their names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

DATA_DIR = Path("data")


SNAPSHOT_DIR = Path("snapshot")


CHANGELOG_FILE = Path("DATA_CHANGELOG.md")


REPORTS_DIR = Path("reports")


PARAMS_FILE = Path("params.yaml")


SKELETONS_DIR = DATA_DIR / "skeletons"


IMAGES_DIR = DATA_DIR / "images"


LABELS_DIR = DATA_DIR / "labels"


EXPORTS_DIR = DATA_DIR / "swc"


KEYS_DIR = DATA_DIR / "keys"


CROISSANT_FILE = DATA_DIR / "croissant.json"


CARD_FILE = DATA_DIR / "README.md"


CHECKS_FILE = DATA_DIR / "checks.json"


FILES_FILE = DATA_DIR / "files.json"
"""Every file of the dataset that the manifest does not name, with its sha256."""


SOURCE_KEY_FILE = KEYS_DIR / "query.json"
"""The digest of the source's options that the cells and planes tables were made with."""


HUB_DIR = DATA_DIR / "hub"


REPORT_STAGE = "report"


REPORT_DIR = REPORTS_DIR / "report"


REPORT_FILE = REPORT_DIR / "index.html"


REPORT_STYLE_FILE = REPORT_DIR / "style.css"


REPORT_CELLS_DIR = REPORT_DIR / "cells"
"""A folder per cell: its page and its pictures."""


REPORT_FIGURES_DIR = REPORT_DIR / "figures"
"""Plots of the whole dataset, SVG."""


CHANGES_DIR = REPORTS_DIR / "changes"
"""What differs from another version, with pictures; made on demand, in neither git nor DVC."""


METRICS_FILE = REPORTS_DIR / "metrics.json"


PLOTS_DIR = REPORTS_DIR / "plots"


def skeleton_file(specimen_id: int) -> Path:
    """The SWC of one cell, the source's bytes."""
    return SKELETONS_DIR / f"{specimen_id}.swc"


def marker_file(specimen_id: int) -> Path:
    """The marker file of one cell, the source's bytes; may be absent."""
    return SKELETONS_DIR / f"{specimen_id}.marker"


type ExportUnit = Literal["um", "voxels"]

SWC_UNITS: tuple[ExportUnit, ...] = ("um", "voxels")


def swc_export_file(specimen_id: int, unit: ExportUnit) -> Path:
    """The skeleton as the labels were drawn from it, for evaluators: in um, or in voxels of the downloaded grid."""
    return EXPORTS_DIR / f"{specimen_id}_{unit}.swc"


def owner_of(name: str) -> str:
    """The specimen id in the name of a file of a cell, relative to its output: `<id>.zarr/0/c`, `<id>_um.swc`."""
    return name.partition("/")[0].partition(".")[0].partition("_")[0]


def image_store(specimen_id: int) -> Path:
    """The OME-Zarr image of one cell."""
    return IMAGES_DIR / f"{specimen_id}.zarr"


def label_store(specimen_id: int) -> Path:
    """The OME-Zarr labels of one cell."""
    return LABELS_DIR / f"{specimen_id}.zarr"


def hub_file(table: str, split: str) -> Path:
    """The rows of a table that are on one side: `train`, `val` or `test`."""
    return HUB_DIR / table / f"{split}.parquet"


def keys_file(stage: str) -> Path:
    """The key of every cell that a stage finished: by it a pulled cell is known to be valid, and is not computed again.

    Those of the report lie with it: they are no part of the data.
    """
    return REPORT_DIR / "keys.json" if stage == REPORT_STAGE else KEYS_DIR / f"{stage}.json"


def cell_page(specimen_id: int) -> Path:
    """The report's page of one cell."""
    return REPORT_CELLS_DIR / str(specimen_id) / "index.html"


REASON_GROUP = "reason"
"""Sub-group of a label store that holds the `Reason` bits, with the same levels as the labels."""
