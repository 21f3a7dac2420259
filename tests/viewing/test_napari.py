from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from brightfield.core.codes import Label
from brightfield.testing.dataset import DATASET_CELLS
from brightfield.viewing import in_napari
from brightfield.viewing.material import WorkingTree
from brightfield.viewing.scene import scene_of


class Window:
    """Keeps what napari's viewer is given."""

    def __init__(self, **_: Any) -> None:
        self.layers: dict[str, tuple[str, Any, dict[str, Any]]] = {}
        self.camera = SimpleNamespace()
        self.dims = SimpleNamespace(set_point=lambda axis, at: None)

    def __getattr__(self, name: str) -> Any:
        return lambda data, **options: self.layers.update({options["name"]: (name, data, options)})


def test_stain_labels_and_skeleton_are_at_one_place(stained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[Window] = []
    fake = SimpleNamespace(Viewer=lambda **options: windows.append(Window(**options)) or windows[0], run=lambda: None)
    monkeypatch.setitem(sys.modules, "napari", fake)
    in_napari.show(scene_of(WorkingTree(stained), DATASET_CELLS[0]))
    layers = windows[0].layers
    assert set(layers) == {"image", "labels", "reason", "skeleton 3", "NOT ON", "markers"}
    kind, levels, options = layers["labels"]
    assert kind == "add_labels"
    edges = layers["skeleton 3"][1]
    middle = edges[40, 0] + edges[40, 1] / 2
    voxel = np.rint((middle - options["translate"]) / options["scale"]).astype(int)
    assert levels[0][tuple(voxel)] == Label.BASAL_DENDRITE
    assert layers["image"][1][0][tuple(voxel)] == 60
