from __future__ import annotations

import io
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import dask.array as da
import fsspec
import numpy as np
import pandas as pd
import pytest
import s3fs
import sshfs

import brightfield
from brightfield.core.codes import Label, Reason
from brightfield.core.errors import ConfigError, SourceError, StackError, TableError, TransferError
from brightfield.core.layout import REASON_GROUP, image_store, label_store
from brightfield.core.schema import MANIFEST
from brightfield.core.space import Grid
from brightfield.core.tables import frame_of, read_table, write_table
from brightfield.testing.dataset import table_row
from brightfield.volumes import ranges, remote
from brightfield.volumes.volume import create_volume
from repositories import command

GRIDS = Grid((8, 400, 300), (0.28, 0.1144, 0.1144)).pyramid(min_size_px=128)
PIPELINE = ["allensdk", "hydra", "omegaconf", "pydantic", "dvc", "dask", "matplotlib", "numba", "sklearn"]


def pixels(specimen_id: int) -> np.ndarray:
    return np.random.default_rng(specimen_id).integers(1, 250, GRIDS[0].shape_zyx, np.uint8)


def build(root: Path, *specimen_ids: int) -> None:
    """A small finished dataset: noise for images, one labelled chunk."""
    for specimen_id in specimen_ids:
        layout = {"chunk_zyx": (8, 64, 64), "shard_zyx": (8, 256, 256)}
        image = create_volume(root / image_store(specimen_id), GRIDS, "uint8", **layout)
        for shard in np.ndindex(image.spec(0).n_shards_zyx):
            box = tuple(slice(*side) for side in image.spec(0).shard_window(shard))
            image.write_dense_shard(0, shard, pixels(specimen_id)[box])
        labels = create_volume(root / label_store(specimen_id), GRIDS, "uint8", **layout)
        labels.write_shard(0, (0, 0, 0), {(0, 1, 0): Label.AXON})
        labels.create_sub(REASON_GROUP, "uint8").write_shard(0, (0, 0, 0), {(0, 2, 0): Reason.RIM})
    rows = [table_row(MANIFEST, specimen_id=specimen_id, split="train") for specimen_id in specimen_ids]
    write_table(MANIFEST, frame_of(MANIFEST, rows), root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    build(root, 7, 8)
    return root


def test_the_cells_of_a_side_are_those_that_can_be_opened(tmp_path: Path) -> None:
    build(tmp_path, 7, 8, 9)
    rows = read_table(MANIFEST, tmp_path).assign(split=["train", "val", "excluded"], reason=[None, None, "no image stack"])
    lost = frame_of(MANIFEST, [table_row(MANIFEST, specimen_id=i, split=side) for i, side in ((10, "train"), (11, "test"))])
    never = frame_of(MANIFEST, [table_row(MANIFEST, specimen_id=12, split="excluded", reason="species is Homo Sapiens")])
    write_table(MANIFEST, pd.concat([rows, lost, never]), tmp_path)
    assert [cell.specimen_id for cell in brightfield.cells(root=tmp_path)] == [7, 8]
    assert [cell.specimen_id for cell in brightfield.cells("train", tmp_path)] == [7]
    assert all(cell.image.shape == GRIDS[0].shape_zyx for cell in brightfield.cells(root=tmp_path))
    with pytest.raises(StackError, match=r"none of 1 cells is here; fetch them with `brightfield pull split=test`"):
        brightfield.cells("test", tmp_path)
    with pytest.raises(ConfigError, match="one of train, val, test"):
        brightfield.cells("excluded", tmp_path)
    with pytest.raises(StackError, match=r"cell 12 is excluded \(species is Homo Sapiens\).*brightfield\.cells\(\)"):
        brightfield.open_cell(12, tmp_path)
    with pytest.raises(StackError, match=r"the manifest has no cell 13"):
        brightfield.open_cell(13, tmp_path)
    with pytest.raises(StackError, match=r"cell 10 is not here; fetch it with `dvc pull"):
        brightfield.open_cell(10, tmp_path)


def test_a_volume_is_an_array_for_others(dataset: Path) -> None:
    image = brightfield.open_cell(7, dataset).image
    whole = np.asarray(image)
    np.testing.assert_array_equal(whole, pixels(7))
    assert (image.ndim, image.shape, image.dtype, image.chunks) == (3, whole.shape, whole.dtype, (8, 64, 64))
    assert np.asarray(image, dtype=np.float32).dtype == np.float32
    assert np.mean(image) == whole.mean()
    with pytest.raises(ValueError, match="copy=False"):
        np.array(image, copy=False)
    lazy = da.from_array(image, chunks=image.chunks)
    np.testing.assert_array_equal(lazy[2, 100:300, :200].compute(scheduler="sync"), whole[2, 100:300, :200])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, at_home: None) -> Path:
    """A DVC repository: cell 7 pushed at tag v1, cells 7 and 8 at v2, nothing left in its cache or workspace."""
    root, store = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("store")
    run = partial(command, root)
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    (root / ".dvc/config").write_text(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {store}\n")
    for tag, cells in (("v1", (7,)), ("v2", (7, 8))):
        build(root, *cells)
        run("dvc", "add", "-q", "data/images", "data/labels", "data/manifest.parquet")
        run("dvc", "push", "-q")
        run("git", "add", "-A")
        run("git", "commit", "-q", "-m", tag)
        run("git", "tag", tag)
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(root / "data/images")
    return root


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads of remote objects, in order."""
    sizes: list[int] = []
    read = remote.read_range

    def counted(*arguments: object) -> bytes:
        data = read(*arguments)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(remote, "read_range", counted)
    return sizes


def test_a_cell_is_lazy_arrays_with_their_grids(dataset: Path) -> None:
    cell = brightfield.open_cell(np.int64(7), dataset)
    assert cell.image.grids == tuple(GRIDS)
    assert cell.image.grid == GRIDS[0]
    assert (cell.image.shape, cell.image.dtype) == ((8, 400, 300), np.uint8)
    np.testing.assert_array_equal(cell.image[2:4, 100:200, 50], pixels(7)[2:4, 100:200, 50])
    assert (cell.labels[:, 64:128, :64] == Label.AXON).all()
    assert (cell.reason[:, 128:192, :64] == Reason.RIM).all()
    assert [array.shape for array in cell.labels.arrays] == [grid.shape_zyx for grid in GRIDS]


def test_labels_open_where_the_image_was_not_pulled(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset / label_store(7), tmp_path / label_store(7))
    cell = brightfield.open_cell(7, tmp_path)
    assert cell.labels[0, 64, 0] == Label.AXON
    with pytest.raises(StackError, match=r"7\.zarr: no volume here"):
        _ = cell.image


def test_the_manifest_is_a_frame(dataset: Path) -> None:
    frame = brightfield.manifest(dataset)
    assert frame.specimen_id.tolist() == [7, 8]
    assert list(frame.columns) == list(MANIFEST.column_names)


def test_reading_imports_nothing_of_the_pipeline(dataset: Path) -> None:
    code = (
        "import sys, brightfield\n"
        f"cell = brightfield.open_cell(7, {str(dataset)!r})\n"
        "print(cell.image[0, 0, 0], cell.labels[0, 64, 0], cell.reason[0, 128, 0])\n"
        f"print(len(brightfield.manifest({str(dataset)!r})))\n"
        f"print([name for name in {PIPELINE} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split("\n")[:3] == [f"{pixels(7)[0, 0, 0]} 2 1", "2", "[]"]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, brightfield; print([name for name in ('numpy', 'pandas', 'pyarrow', 'zarr') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_what_is_not_here_is_said(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"cell 9 is not here; fetch it with `dvc pull data/images/9\.zarr data/labels/9\.zarr`"):
        brightfield.open_cell(9, tmp_path)
    with pytest.raises(TableError, match="dvc pull"):
        brightfield.manifest(tmp_path)
    with pytest.raises(AttributeError, match="it has CellData, Grid, cells, manifest, open_cell, patches, rasterize, read_swc"):
        _ = brightfield.open_cells


def test_a_revision_is_read_by_ranges_without_pulling(repository: Path, moved: list[int]) -> None:
    cell = brightfield.open_cell(7, repository, rev="v1")
    assert cell.image.grids == tuple(GRIDS)
    moved.clear()
    np.testing.assert_array_equal(cell.image[2:4, 100:120, 70:90], pixels(7)[2:4, 100:120, 70:90])
    inner_chunk = 8 * 64 * 64
    assert len(moved) == 2
    assert inner_chunk < sum(moved) < inner_chunk + 500
    moved.clear()
    assert cell.labels[0, 64, 0] == Label.AXON
    assert cell.reason[0, 128, 0] == Reason.RIM
    assert len(cell.labels.stored_chunks()) == 1
    assert not (repository / "data/images").exists()
    assert not (repository / ".dvc/cache/files/md5").exists() or not any(
        p.stat().st_size > 10_000 for p in repository.rglob(".dvc/cache/**/*")
    )


def test_each_revision_has_its_own_cells(repository: Path) -> None:
    assert brightfield.manifest(repository, rev="v1").specimen_id.tolist() == [7]
    assert brightfield.manifest(repository, rev="v2").specimen_id.tolist() == [7, 8]
    assert brightfield.open_cell(8, repository, rev="v2").image[0, 0, 0] == pixels(8)[0, 0, 0]
    with pytest.raises(SourceError, match=r"revision 'v1' of .* has no data/images/8\.zarr"):
        _ = brightfield.open_cell(8, repository, rev="v1").image


@pytest.mark.parametrize(("root", "rev"), [("repository", "v9"), ("tmp_path", "v1")])
@pytest.mark.usefixtures("at_home")
def test_a_revision_that_does_not_exist_is_named(request: pytest.FixtureRequest, root: str, rev: str) -> None:
    folder = request.getfixturevalue(root)
    with pytest.raises(SourceError, match=f"revision '{rev}' of {folder} cannot be read with DVC"):
        brightfield.manifest(folder, rev=rev)


def test_without_dvc_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvc.repo", None)
    with pytest.raises(SourceError, match=r"pip install 'brightfield\[pipeline\]'"):
        brightfield.manifest(tmp_path, rev="v1")


def test_a_revision_is_read_only(repository: Path) -> None:
    with pytest.raises(StackError, match="only a volume in a local directory can be written"):
        brightfield.open_cell(7, repository, rev="v1").image.write_shard(0, (0, 0, 0), {(0, 0, 0): 1})
    array = brightfield.open_cell(7, repository, rev="v1").image.arrays[0]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


class CountedFile(io.BytesIO):
    """A file that tells its folder how much was read."""

    def __init__(self, folder: WholeFolder) -> None:
        super().__init__(folder.data)
        self.folder = folder

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.folder.moved += len(data)
        return data


class WholeFolder:
    """A file system of one object, whose `cat_file` moves all of it whatever it is asked for: what sshfs does."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.moved = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        self.moved += len(self.data)
        return self.data

    def open(self, path: str, mode: str) -> CountedFile:
        return CountedFile(self)


class RangedFolder(WholeFolder):
    """A file system whose `cat_file` moves the range."""

    def _cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        return self.data[start:end]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        found = self._cat_file(path, start, end)
        self.moved += len(found)
        return found


@pytest.mark.parametrize("kind", [WholeFolder, RangedFolder])
@pytest.mark.parametrize(("start", "stop"), [(None, None), (0, 5), (3, 9), (40, None), (-7, None)])
def test_a_range_moves_itself_and_nothing_else(kind: type[WholeFolder], start: int | None, stop: int | None) -> None:
    folder = kind(bytes(range(50)))
    assert ranges.read_range(folder, "object", start, stop) == folder.data[start:stop]
    assert folder.moved == len(folder.data[start:stop])


def test_the_file_systems_that_take_ranges_are_known() -> None:
    assert ranges.takes_ranges(object.__new__(s3fs.S3FileSystem))
    assert not ranges.takes_ranges(object.__new__(sshfs.SSHFileSystem))


def test_on_s3_a_range_is_not_held_against_the_checksum_of_the_whole() -> None:
    before = s3fs.S3FileSystem(anon=True, config_kwargs={"read_timeout": 7}, skip_instance_cache=True)
    after = ranges.without_whole_checksums(before)
    kept = {"read_timeout": 7, "max_pool_connections": ranges.CONNECTIONS}
    assert after.storage_options["config_kwargs"] == {**kept, "response_checksum_validation": "when_required"}
    assert after.storage_options | {"config_kwargs": None} == before.storage_options | {"config_kwargs": None}
    other = fsspec.filesystem("file")
    assert ranges.without_whole_checksums(other) is other


def test_an_object_that_nobody_pushed_is_named() -> None:
    class Nothing(WholeFolder):
        def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
            raise FileNotFoundError(path)

    with pytest.raises(TransferError, match="data/x is known to DVC, but no remote holds it"):
        remote.RemoteObject("data/x", ((Nothing(b""), "a"), (Nothing(b""), "b"))).read()


def test_the_cache_is_asked_before_the_remote() -> None:
    near, far = RangedFolder(b"here"), RangedFolder(b"here")
    assert remote.RemoteObject("data/x", ((near, "a"), (far, "b"))).read(0, 2) == b"he"
    assert (near.moved, far.moved) == (2, 0)
