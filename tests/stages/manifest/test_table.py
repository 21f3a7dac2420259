"""The manifest: everything joined, every hash checkable with other tools, read by other readers."""

from __future__ import annotations

import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from brightfield.config.options import Config, SourceConfig, SourceKind
from brightfield.core.errors import TableError
from brightfield.core.layout import image_store, skeleton_file
from brightfield.core.schema import CITATION, LABEL_STATS, LICENSE_URL, MANIFEST, SPLITS
from brightfield.core.swc import read_swc
from brightfield.core.tables import read_table, write_table
from brightfield.stages.manifest.table import NOT_STATED, StoreHasher, build_manifest, hash_and_size, named_files, terms
from brightfield.testing.dataset import DATASET_CELLS, dataset_config, make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    return root


@pytest.fixture(scope="module")
def manifest(dataset: Path) -> pd.DataFrame:
    return read_table(MANIFEST, dataset).set_index("specimen_id")


# -------------------------------------------------------------------------------------------------------------------- hashes


def test_the_hash_of_a_store_is_what_sha256sum_says(dataset: Path) -> None:
    store = dataset / image_store(101)
    shell = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(shell, shell=True, cwd=store, capture_output=True, text=True, check=True).stdout.split()[0]
    with StoreHasher() as hash_store:
        digest, size = hash_store(store)
    assert digest == said
    assert size == sum(p.stat().st_size for p in store.rglob("*") if p.is_file())


def test_the_hash_does_not_depend_on_threads_and_sees_names_and_bytes(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    (store / "c").mkdir(parents=True)
    for k in range(20):
        (store / "c" / str(k)).write_bytes(bytes([k]))
    found = set()
    for threads in (1, 7):
        with StoreHasher(threads) as hash_store:
            found.add(hash_store(store))
    assert len(found) == 1
    (store / "c" / "19").rename(store / "c" / "20")
    with StoreHasher() as hash_store:
        assert hash_store(store) not in found


def test_hashing_does_not_hold_the_file_in_memory(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64_000_000)
    tracemalloc.start()
    _, size = hash_and_size(big)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 64_000_000
    assert peak < 2_000_000


# ---------------------------------------------------------------------------------------------------------------------- rows


def test_every_cell_has_a_row_and_excluded_ones_their_reason(manifest: pd.DataFrame) -> None:
    assert manifest.index.tolist() == [101, 102, 103, 104, 105]
    assert manifest["split"].tolist() == ["train", "val", "test", "excluded", "excluded"]
    assert manifest.loc[[104, 105], "reason"].tolist() == ["alignment: y flip fits better", "the source has no image stack for it"]
    assert manifest.loc[105, ["image_path", "label_path", "skeleton_path"]].isna().all()


def test_named_files_are_there_with_their_hashes(dataset: Path) -> None:
    named = list(named_files(read_table(MANIFEST, dataset)))
    assert {(i, kind) for i, kind, _, _ in named} == {(i, kind) for i in (101, 102, 103, 104) for kind in ("skeleton", "image", "label")}
    for _, kind, path, digest in named:
        if kind == "skeleton":
            assert hash_and_size(dataset / path)[0] == digest


def test_numbers_are_those_of_the_parts(dataset: Path, manifest: pd.DataFrame) -> None:
    row = manifest.loc[101]
    skeleton = read_swc(dataset / skeleton_file(101))
    assert row["n_nodes"] == len(skeleton)
    assert row["path_basal_um"] == pytest.approx(90.0)
    assert (row["shape_z"], row["shape_y"], row["shape_x"]) == (24, 96, 320)
    assert (row["voxel_z_um"], row["voxel_y_um"]) == (1.0, 0.5)
    assert row["voxels_fetched"] == 24 * 96 * 256
    assert (row["n_tiles"], row["n_tiles_missing"]) == (24 * 2 * 4, 0)
    stats = read_table(LABEL_STATS, dataset).set_index("specimen_id").loc[101]
    assert row["voxels_basal"] == stats["voxels_basal"] > 0


def test_a_cell_that_was_not_drawn_has_the_numbers_of_its_skeleton(dataset: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "copy")
    stats = read_table(LABEL_STATS, root)
    write_table(LABEL_STATS, stats[stats["specimen_id"] != 101], root)
    row = build_manifest(root, dataset_config(), source_url="test").set_index("specimen_id").loc[101]
    counted = ["n_nodes", "n_trees", *(c for c in manifest.columns if c.startswith("path_"))]
    assert row[counted].tolist() == manifest.loc[101, counted].tolist()
    assert pd.isna(row["voxels_basal"])


def test_a_cell_with_a_skeleton_and_no_stack_has_its_numbers_too(dataset: Path, manifest: pd.DataFrame, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "copy")
    shutil.copy(root / skeleton_file(101), root / skeleton_file(DATASET_CELLS[-1]))
    again = build_manifest(root, dataset_config(), source_url="test")
    row = read_table(MANIFEST, write_table(MANIFEST, again, tmp_path).parents[1]).set_index("specimen_id").loc[DATASET_CELLS[-1]]
    assert pd.isna(row["pixel_um"])
    assert (row["n_nodes"], row["path_basal_um"]) == (manifest.loc[101, "n_nodes"], manifest.loc[101, "path_basal_um"])


def test_the_same_data_gives_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    again = build_manifest(dataset, dataset_config(), source_url="test")
    assert write_table(MANIFEST, again.sample(frac=1, random_state=1), tmp_path).read_bytes() == (dataset / MANIFEST.path).read_bytes()


def test_only_options_that_decide_the_data_are_in_the_configuration_hash(dataset: Path, manifest: pd.DataFrame) -> None:
    config = dataset_config()
    for same in (replace(config, compute=replace(config.compute, workers=7)), config):
        assert set(build_manifest(dataset, same, source_url="test")["config_sha256"]) == set(manifest["config_sha256"])
    other = replace(config, labels=replace(config.labels, r_min_um=0.5))
    assert set(build_manifest(dataset, other, source_url="test")["config_sha256"]).isdisjoint(manifest["config_sha256"])


def test_a_missing_stage_is_named(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "copy")
    (root / SPLITS.path).unlink()
    with pytest.raises(TableError, match="splits table is not there"):
        build_manifest(root, dataset_config(), source_url="test")


def test_a_cell_without_a_split_is_named(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "copy")
    write_table(SPLITS, read_table(SPLITS, root).iloc[1:], root)
    with pytest.raises(TableError, match=r"cells \[101\] have no split"):
        build_manifest(root, dataset_config(), source_url="test")


# --------------------------------------------------------------------------------------------------------------------- terms


def test_every_source_has_terms() -> None:
    for kind in SourceKind:
        known = terms(Config(source=SourceConfig(kind=kind)))
        assert known.license
        assert known.citation
    allen = terms(Config(source=SourceConfig(kind=SourceKind.allen)))
    assert (allen.license_url, allen.citation) == (LICENSE_URL, CITATION)


def test_own_stacks_are_under_their_owners_terms() -> None:
    own = terms(Config(source=SourceConfig(kind=SourceKind.folder, license="CC-BY-4.0", citation="Us 2026")))
    assert (own.license, own.citation) == ("CC-BY-4.0", "Us 2026")
    assert terms(Config(source=SourceConfig(kind=SourceKind.folder))).license == NOT_STATED


# ------------------------------------------------------------------------------------------------------------- other readers


def test_every_column_says_its_unit_and_meaning_in_the_file(dataset: Path) -> None:
    for column, field in zip(MANIFEST.columns, pq.read_schema(dataset / MANIFEST.path), strict=True):
        assert field.metadata == {b"unit": column.unit.encode(), b"description": column.description.encode()}


def test_pandas_polars_and_duckdb_read_it_alike(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dataset)
    by_pandas = pd.read_parquet(MANIFEST.path).groupby("split")["image_bytes"].sum().to_dict()
    by_polars = dict(pl.read_parquet(MANIFEST.path).group_by("split").agg(pl.col("image_bytes").sum()).iter_rows())
    by_duckdb = dict(duckdb.sql(f"SELECT split, coalesce(sum(image_bytes), 0) FROM '{MANIFEST.path}' GROUP BY split").fetchall())
    assert by_pandas == by_polars == by_duckdb
