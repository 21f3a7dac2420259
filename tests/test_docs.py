"""What the documentation tells users to type works as it is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brightfield.testing import make_dataset

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_loader_of_the_training_guide_gives_stain_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    first = re.findall(r"```python\n(.*?)```", (DOCS / "how-to/train.md").read_text(), re.DOTALL)[0]
    exec(compile(first, "train.md", "exec"), names)
    patches = names["train"]
    assert len(patches) > 10
    assert len(set(patches.table["specimen_id"])) == names["weights"].sum().round(6)
    for index in range(0, len(patches), 5):
        stain, labels = patches[index]
        assert stain.shape == (1, *labels.shape) == (1, 8, 16, 16)
        assert stain.dtype == np.float32
        assert 0 <= stain.min() <= stain.max() <= 1
        counted = patches.table.iloc[index]
        assert (labels == 255).sum() == counted["voxels_unknown"]
        assert (labels == 0).sum() == counted["voxels_background"]
