from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brightfield.core.errors import ConfigError, TableError
from brightfield.core.schema import PATCHES
from brightfield.core.tables import frame_of, write_table
from brightfield.learn.files import LocalFiles
from brightfield.learn.rows import read_rows
from brightfield.testing.dataset import table_row


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten patches of three cells: folds 0 and 1 of train and val, and test."""
    rows = [
        table_row(
            PATCHES,
            specimen_id=cell,
            patch=number,
            kind="axon" if number % 2 else "soma",
            split=split,
            fold=fold,
            z0=number,
            z1=number + 8,
            voxels_axon=number % 2,
            voxels_soma=0,
            voxels_basal=0,
            voxels_apical=0,
            ignored_fraction=number / 10,
        )
        for cell, split, fold in ((1, "train", 0), (2, "val", 1), (3, "test", None))
        for number in range(10)
    ]
    write_table(PATCHES, frame_of(PATCHES, rows), tmp_path)
    return tmp_path


def test_rows_are_those_of_the_table(root: Path) -> None:
    rows = read_rows(LocalFiles(root), "val")
    frame = pd.read_parquet(root / PATCHES.path).query("split == 'val'")
    np.testing.assert_array_equal(rows.specimen_id, frame["specimen_id"])
    np.testing.assert_array_equal(rows.patch, frame["patch"])
    np.testing.assert_array_equal(rows.box[:, 0], frame[["z0", "z1"]])
    np.testing.assert_array_equal(rows.holds[:, 1], frame["patch"] % 2 == 1)
    assert not rows.holds[:, [0, 2, 3]].any()


def test_filters_leave_what_they_say(root: Path) -> None:
    assert read_rows(LocalFiles(root), "train", max_ignored=0.35).patch.tolist() == [0, 1, 2, 3]
    assert read_rows(LocalFiles(root), "train", kinds=["axon"]).patch.tolist() == [1, 3, 5, 7, 9]
    assert set(read_rows(LocalFiles(root), "train", fold=0).specimen_id) == {2}
    assert set(read_rows(LocalFiles(root), "val", fold=0).specimen_id) == {1}


def test_the_digest_tells_other_rows(root: Path) -> None:
    digests = {
        read_rows(LocalFiles(root), "train").digest,
        read_rows(LocalFiles(root), "val").digest,
        read_rows(LocalFiles(root), "train", max_ignored=0.5).digest,
    }
    assert len(digests) == 3
    assert read_rows(LocalFiles(root), "train").digest == read_rows(LocalFiles(root), "train").digest


def test_what_the_table_does_not_have_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match="split is one of train, val, test, found 'training'"):
        read_rows(LocalFiles(root), "training")
    with pytest.raises(ConfigError, match=r"fold is one of \[0, 1\] for train and val, found 5"):
        read_rows(LocalFiles(root), "train", fold=5)
    with pytest.raises(ConfigError, match="fold is one of"):
        read_rows(LocalFiles(root), "test", fold=0)
    with pytest.raises(ConfigError, match="kinds axon, soma, found dendrites"):
        read_rows(LocalFiles(root), "train", kinds=["dendrites", "soma"])
    with pytest.raises(TableError, match=r"no patch of split 'train', kinds \['axon'\] has at most 0.05 of it unknown"):
        read_rows(LocalFiles(root), "train", kinds=["axon"], max_ignored=0.05)
    with pytest.raises(TableError, match="dvc repro"):
        read_rows(LocalFiles(root / "elsewhere"), "train")
