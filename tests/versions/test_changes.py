"""The page about what differs between two versions: which cells, and the labels of changed ones side by side."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brightfield.config.compose import compose, write_params
from brightfield.core.layout import CHANGES_DIR, image_store, label_store
from brightfield.core.space import Grid
from brightfield.stages.report.comparison import compare
from brightfield.versions import changes
from brightfield.versions.changes import write_changes
from brightfield.volumes.volume import Volume, create_volume
from repositories import command, data_repository, write_dataset

SHAPE = (8, 40, 48)


def volume(path: Path, voxels: np.ndarray) -> Volume:
    made = create_volume(
        path, [Grid(voxels.shape, (1.0, 0.5, 0.5))], voxels.dtype, fill_value=0, chunk_zyx=(4, 8, 8), shard_zyx=(16, 64, 64)
    )
    made.write_dense_shard(0, (0, 0, 0), voxels)
    return made


def labels(*voxels: tuple[int, int, int]) -> np.ndarray:
    codes = np.zeros(SHAPE, np.uint8)
    for voxel in voxels:
        codes[voxel] = 3
    return codes


def test_the_plane_with_the_most_differences_is_shown_and_they_are_counted(tmp_path: Path) -> None:
    image = volume(tmp_path / "i", np.full(SHAPE, 190, np.uint8))
    before = volume(tmp_path / "b", labels((1, 5, 5), (6, 10, 20)))
    after = volume(tmp_path / "a", labels((1, 5, 6), (6, 10, 20), (6, 11, 20), (6, 12, 20), (6, 13, 20)))
    found = compare(image, before, after)
    assert found is not None
    assert (found.plane, found.n_differ, found.n_voxels, found.level) == (6, 5, np.prod(SHAPE), 0)
    red = (found.differing == (214, 40, 40)).all(axis=-1)
    assert np.argwhere(red).tolist() == [[11, 20], [12, 20], [13, 20]]
    coloured = [np.ptp(picture, axis=-1) > 0 for picture in (found.before, found.after)]
    assert [np.argwhere(of).tolist() for of in coloured] == [[[10, 20]], [[10, 20], [11, 20], [12, 20], [13, 20]]]


def test_equal_labels_differ_nowhere_and_other_grids_are_not_compared(tmp_path: Path) -> None:
    image = volume(tmp_path / "i", np.full(SHAPE, 190, np.uint8))
    one, other = volume(tmp_path / "b", labels((1, 5, 5))), volume(tmp_path / "a", labels()[:, :, :32])
    same = compare(image, one, one)
    assert same is not None
    assert same.n_differ == 0
    assert compare(image, one, other) is None


def commit(root: Path, cells: dict[int, np.ndarray], tag: str) -> None:
    """A version whose labels are real volumes."""
    write_dataset(root, {i: {"labels": codes.tobytes().hex(), "name": f"<i>{i}"} for i, codes in cells.items()})
    for i, codes in cells.items():
        for store, voxels in ((image_store(i), np.full(SHAPE, 190, np.uint8)), (label_store(i), codes)):
            (root / store / "0" / "c").unlink()
            (root / store / "0").rmdir()
            volume(root / store, voxels)
    write_params(compose((), root), root)
    command(root, "dvc", "commit", "-q", "-f")
    command(root, "git", "add", "-A")
    command(root, "git", "commit", "-q", "--allow-empty", "-m", tag)
    command(root, "git", "tag", tag)


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_gained_lost_and_changed_cells_are_told_and_changed_labels_pictured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repository").mkdir()
    root = data_repository(tmp_path / "repository", {1: {}})
    commit(root, {1: labels((2, 4, 4)), 2: labels((3, 4, 4)), 3: labels()}, "v1.0.0")
    commit(root, {1: labels((2, 4, 4)), 2: labels((3, 4, 4), (3, 5, 4)), 4: labels()}, "v2.0.0")
    page = write_changes(root, "v1.0.0")
    html = page.read_text("utf-8")
    assert page == root / CHANGES_DIR / "index.html"
    assert "1 cells gained, 1 lost, 1 changed" in html
    assert re.search(r'id="gained".*&lt;i&gt;4.*id="lost".*&lt;i&gt;3.*id="moved"', html, re.DOTALL)
    assert 'id="cell-2"' in html
    assert 'id="cell-1"' not in html
    assert "1 voxels differ" in html
    assert str(tmp_path) not in html
    pictures = {name: np.asarray(Image.open(page.parent / "2" / f"{name}.png")) for name in ("before", "after", "differing")}
    assert (pictures["before"] != pictures["after"]).any(axis=-1).sum() == 1
    assert sorted(re.findall(r'src="([^"]+)"', html)) == [f"2/{name}.png" for name in sorted(pictures)]

    first = {path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    assert {path.name: path.read_bytes() for path in write_changes(root, "v1.0.0").parent.rglob("*") if path.is_file()} == first
    assert "v2.0.0 to v1.0.0" in write_changes(root, "v2.0.0", "v1.0.0").read_text("utf-8")
    monkeypatch.setattr(changes, "MAX_PICTURED", 0)
    assert "1 cells whose labels changed are listed without pictures" in write_changes(root, "v1.0.0").read_text("utf-8")
