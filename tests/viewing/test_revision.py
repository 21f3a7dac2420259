"""Cells of a revision, read from a DVC remote that is a directory, without pulling."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from brightfield.cli import main
from brightfield.core.layout import image_store
from brightfield.testing.dataset import DATASET_CELLS
from brightfield.viewing.choice import Filters, listed
from brightfield.viewing.material import Revision, WorkingTree
from brightfield.viewing.scene import scene_of
from repositories import command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("at_home"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC's use of pygtrie
]

CELL = DATASET_CELLS[0]


@pytest.fixture(scope="module")
def pushed(stained: Path, at_home: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose tag v1 has the dataset in its remote, and nothing of it here."""
    root = Path(shutil.copytree(stained, tmp_path_factory.mktemp("pushed") / "repository"))
    command(root, "git", "init", "-q")
    command(root, "dvc", "init", "-q")
    command(root, "dvc", "remote", "add", "-q", "-d", "team", str(root.parent / "remote"))
    command(
        root,
        "dvc",
        "add",
        "-q",
        "data/images",
        "data/labels",
        "data/skeletons",
        *(f"data/{p.name}" for p in (root / "data").glob("*.parquet")),
    )
    command(root, "git", "add", "-A")
    command(root, "git", "commit", "-q", "-m", "data")
    command(root, "git", "tag", "v1")
    command(root, "dvc", "push", "-q")
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(root / "data" / "images")
    for file in (root / "data").glob("*.parquet"):
        file.unlink()
    return root


def test_a_scene_is_the_same_from_afar(pushed: Path, stained: Path) -> None:
    afar, here = Revision(str(pushed), "v1"), WorkingTree(stained)
    assert listed(afar, Filters()) == listed(here, Filters())
    far, near = (scene_of(material, CELL, at="node:11") for material in (afar, here))
    assert (far.grid, far.contrast, far.marks, far.place) == (near.grid, near.contrast, near.marks, near.place)
    for code, lines in near.skeleton.items():
        np.testing.assert_array_equal(far.skeleton[code].points_zyx, lines.points_zyx)
    shelf, name = afar.shelf(image_store(CELL)), "0/c/0/0/0"
    data = (stained / image_store(CELL) / name).read_bytes()
    assert shelf(name).size() == len(data)
    assert shelf(name).read(7, 30) == data[7:30]
    assert shelf("0/c/9/9/9") is None
    assert not (pushed / "data" / "images").exists(), "nothing was pulled"


def test_what_a_revision_lacks_is_said_in_one_line(pushed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["5", "--rev", "v1"], "there is no cell 5"), (["--rev", "v9"], "revision 'v9'")):
        assert main(["-C", str(pushed), "view", *words]) == 1
        text = capsys.readouterr().err
        assert said in text
        assert text.count("\n") == 1
