"""What became of each cell in a stage, tracked with its outputs: the key of its result, or why the dataset goes on without it.

`data/keys/<stage>.json` maps specimen ids to a key (64 hexadecimal digits: by it a finished cell is known again) or to `failed: <reason>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from brightfield.core.files import write_json
from brightfield.core.layout import REPORT_STAGE, keys_file
from brightfield.core.urls import public_text

BY_CELL = ("skeletons", "download", "align", "rasterize", "manifest")
"""Steps that work cell by cell, in order; each has its own file."""

WITH_KEYS = (*BY_CELL, REPORT_STAGE)
"""All that keep finished cells: the report's pages too, which are no part of the data."""

BEFORE_SPLIT = BY_CELL[:-1]
"""Those whose failures the split excludes."""

_FAILED = "failed: "


def write_keys(root: Path, stage: str, keys: Mapping[int, str], failures: Mapping[int, str]) -> None:
    """Record the keys of finished cells, and the reasons why the dataset goes without others."""
    told = {i: f"{_FAILED}{_lasting(reason, root)}" for i, reason in failures.items()}
    write_json(root / keys_file(stage), {str(i): text for i, text in {**keys, **told}.items()})


def finished_keys(told: Mapping[str, str] | None) -> dict[int, str]:
    """The keys in the content of a keys file, by specimen id; none where there is no file."""
    return {int(i): text for i, text in (told or {}).items() if not text.startswith(_FAILED)}


def read_keys(root: Path, stage: str) -> dict[int, str]:
    """The keys of the cells that a stage finished; none where it was not run."""
    return finished_keys(_read(root, stage))


def read_failures(root: Path, stages: Iterable[str] = BY_CELL) -> dict[int, str]:
    """Why the dataset goes without a cell, as `stage: reason` of the first of the stages that it failed in."""
    found: dict[int, str] = {}
    for stage in stages:
        for i, text in _read(root, stage).items():
            if text.startswith(_FAILED):
                found.setdefault(int(i), f"{stage}: {text.removeprefix(_FAILED)}")
    return found


def _read(root: Path, stage: str) -> dict[str, str]:
    path = root / keys_file(stage)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _lasting(reason: str, root: Path) -> str:
    """A reason without what differs from run to run or is nobody's business: hosts, folders of this machine, counts of attempts."""
    reason = " ".join(public_text(reason).replace(f"{root.resolve()}/", "").split())
    reason = re.sub(r"https?://[^/\s]+| \(\d+ attempts?\)", "", reason)
    return re.sub(r"(?<![\w.:/])/(?:[^\s:'\"/]+/)*(?=[^\s/])", "", reason)
