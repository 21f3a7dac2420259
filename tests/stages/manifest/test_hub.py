"""What the hub's own reader makes of a dataset: splits that are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from brightfield.core.layout import DATA_DIR
from brightfield.core.schema import MANIFEST, PATCHES
from brightfield.core.tables import read_table
from brightfield.testing.dataset import make_dataset

SIDES = ("train", "val", "test")
LOAD = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
names = get_dataset_config_names(sys.argv[1])
loaded = {name: load_dataset(sys.argv[1], name) for name in names}
assert set(load_dataset(sys.argv[1])) == set(loaded["manifest"])
print(json.dumps({name: {split: rows["specimen_id"] for split, rows in of.items()} for name, of in loaded.items()}, default=list))
"""


@pytest.mark.slow
def test_load_dataset_gives_our_sides_and_no_excluded_cell(tmp_path: Path) -> None:
    make_dataset(tmp_path / "set")
    home = {name: str(tmp_path / "home") for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME")}
    environment = {**os.environ, **home, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    words = [sys.executable, "-c", LOAD, str(tmp_path / "set" / DATA_DIR)]
    told = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    loaded = json.loads(told.stdout.splitlines()[-1])
    assert set(loaded) == {"manifest", "patches"}
    for table in (MANIFEST, PATCHES):
        frame = read_table(table, tmp_path / "set")
        ours = {side: frame.loc[frame["split"] == side, "specimen_id"].tolist() for side in SIDES}
        assert loaded[table.name] == ours
        assert all(ours.values())
