"""A plan is of the configured source and selection, whatever was built before and whatever params.yaml says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from brightfield import planning
from brightfield.config.compose import write_params
from brightfield.config.options import Config, ImageConfig, SourceConfig, SourceKind
from brightfield.core.errors import ConfigError
from brightfield.core.layout import SOURCE_KEY_FILE
from brightfield.core.swc import format_swc
from brightfield.stages.query import stage as query
from brightfield.testing.skeletons import cable


def stacks(place: Path, *specimen_ids: int) -> Config:
    """A folder of tiny stacks, and the configuration that names it."""
    for specimen_id in specimen_ids:
        (place / str(specimen_id)).mkdir(parents=True)
        (place / str(specimen_id) / "x.swc").write_bytes(format_swc(cable(15.0, start_zyx_um=(0.8, 8.0, 4.0))))
        for number in range(1, 7):
            tifffile.imwrite(place / str(specimen_id) / f"{number}.tif", np.full((150, 210), 90 + number, np.uint8))
    source = SourceConfig(kind=SourceKind.folder, path=str(place), pixel_um=0.1144, plane_um=0.28, species="")
    return Config(source=source, image=ImageConfig(tile_px=64, background_share=0.0, shard_zyx=[64, 256, 256]))


def planned(config: Config, root: Path) -> list[int]:
    """What is planned after `brightfield config` has written the configuration, as people do."""
    write_params(config, root)
    return [cell.specimen_id for cell in planning.plan(config, root).cells]


@pytest.fixture
def built(tmp_path: Path) -> tuple[Config, Path]:
    """A repository whose query was run on one folder."""
    config, root = stacks(tmp_path / "a", 11, 12), tmp_path / "root"
    root.mkdir()
    write_params(config, root)
    query.run(config, root)
    return config, root


def test_another_source_is_asked_though_params_yaml_names_it_already(built: tuple[Config, Path], tmp_path: Path) -> None:
    config, root = built
    assert planned(config, root) == [11, 12]
    assert planned(stacks(tmp_path / "b", 21), root) == [21]


def test_another_selection_is_made_and_an_unknown_cell_told(built: tuple[Config, Path]) -> None:
    config, root = built
    assert planned(replace(config, source=replace(config.source, specimen_ids=[12])), root) == [12]
    with pytest.raises(ConfigError, match="the source knows no cell 999"):
        planned(replace(config, source=replace(config.source, specimen_ids=[12, 999])), root)


def test_what_is_built_is_planned_without_asking(built: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    config, root = built

    def refuse(*_: Any) -> Any:
        raise AssertionError("the source was asked for its cells")

    monkeypatch.setattr(planning, "answer", refuse)
    assert planned(config, root) == [11, 12]
    (root / SOURCE_KEY_FILE).write_text("{")
    with pytest.raises(AssertionError):
        planned(config, root)


def test_a_snapshot_of_another_source_is_refused(built: tuple[Config, Path], tmp_path: Path) -> None:
    config, root = built
    query.refresh(config, root, write=True)
    query.run(config, root)
    assert planned(config, root) == [11, 12]
    other = stacks(tmp_path / "b", 11)
    for act in (query.run, planning.plan):
        with pytest.raises(ConfigError, match=r"snapshot/ is of .*/a.*asks for .*/b.*brightfield refresh --write"):
            act(other, root)
