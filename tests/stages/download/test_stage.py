"""The download stage as its own process, killed and run again, against a mirror that counts."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from brightfield import cli
from brightfield.config.compose import compose, write_params
from brightfield.config.params import load
from brightfield.core.errors import CellFailures
from brightfield.core.layout import IMAGES_DIR, PARAMS_FILE, image_store
from brightfield.core.schema import TILES
from brightfield.core.tables import read_table
from brightfield.planning import Pace, plan
from brightfield.sources.mirror.server import Mirror, serve
from brightfield.stages.download import stage
from brightfield.stages.query import stage as query
from brightfield.testing.source import small_catalog, small_cell
from repositories import REPOSITORY
from warm import process_of

pytestmark = pytest.mark.slow

CELLS = (3, 4, 5)
CROPS = "/api/v2/image_download/"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(small_catalog(*(small_cell(i, n_planes=48, height_px=600, width_px=500) for i in CELLS))) as mirror:
        yield mirror


def repository(root: Path, mirror: Mirror, *overrides: str) -> Path:
    """A repository before its download, with shards so small that a cell is 12 units."""
    shutil.copytree(REPOSITORY / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    words = ["source=allen", f"source.base_url={mirror.base_url}", "source.accept_terms=true", "compute.connections=4"]
    words += ["image.coverage=full", "image.level=0", "image.z_step=1", "image.tile_px=128"]
    words += ["image.shard_zyx=[4,128,128]", "image.chunk_zyx=[4,64,64]"]
    composed = compose((*words, *overrides), root)
    write_params(composed, root)
    query.refresh(composed, root, write=True)
    query.run(composed, root)
    return root


def run_stage(root: Path) -> None:
    sys.exit(cli.main(["-C", str(root), "stage", "download"]))


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def crops(mirror: Mirror) -> list[str]:
    """The pictures that were asked for, projections aside."""
    paths = [request.path for request in mirror.requests if request.path.startswith(CROPS)]
    return [path for path in paths if int(urlsplit(path).path.removeprefix(CROPS)) % 1000 < 900]


def area(paths: list[str]) -> int:
    queries = [parse_qs(urlsplit(path).query) for path in paths]
    return sum(int(query["width"][0]) * int(query["height"][0]) for query in queries)


def kept(root: Path, clean: Path) -> int:
    """Pixels that are on the disk as finished: of published cells, and of what the journals of the others say."""
    total = 0
    for specimen_id, rows in read_table(TILES, clean).groupby("specimen_id"):
        journals = list((root / ".work" / "partial").glob(f"{specimen_id}-*/journal"))
        if journals:
            lines = journals[0].read_bytes().splitlines(keepends=True)[1:]
            records = [json.loads(line.partition(b" ")[2]) for line in lines if line.endswith(b"\n")]
            numbers = [row for record in records for row, *_ in record["tiles"]]
            total += int(rows["bytes"].to_numpy()[numbers].sum())
        elif list((root / ".work" / "download").glob(f"*/{IMAGES_DIR}/{specimen_id}.zarr")):
            total += int(rows["bytes"].sum())
    return total


def content(root: Path) -> dict[str, bytes]:
    paths = [path for name in (IMAGES_DIR, TILES.path) for path in sorted([root / name, *(root / name).rglob("*")])]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def test_killed_and_run_again_nothing_finished_is_fetched_twice_and_the_bytes_are_the_same(mirror: Mirror, tmp_path: Path) -> None:
    clean = repository(tmp_path / "clean", mirror)
    mirror.forget()
    assert ended(process_of(run_stage, clean)) == 0
    paths = crops(mirror)
    wanted = area(paths)
    progress = []
    for number, share in enumerate(np.random.default_rng(7).uniform(0.05, 0.95, 5)):
        root = repository(tmp_path / str(number), mirror)
        mirror.forget()
        process = process_of(run_stage, root)
        while len(crops(mirror)) < share * len(paths) and process.is_alive():
            time.sleep(0.001)
        process.kill()
        process.join()
        finished = kept(root, clean)
        mirror.forget()
        assert ended(process_of(run_stage, root)) == 0
        assert area(crops(mirror)) == wanted - finished
        assert content(root) == content(clean)
        progress.append(finished)
    assert len(set(progress)) > 2


def test_a_cell_that_cannot_be_planned_fails_alone(tmp_path: Path) -> None:
    whole = small_catalog(*(small_cell(i) for i in CELLS))
    without = replace(whole, pictures={i: picture for i, picture in whole.pictures.items() if i != 4998})
    with serve(without) as mirror:
        root = repository(tmp_path, mirror, "image.coverage=skeleton", "compute.retries=1")
        config = load(root / PARAMS_FILE)
        found = plan(config, root)
        assert [cell.specimen_id for cell in found.cells] == [3, 5]
        assert "cell 4       it cannot be planned: " in found.as_text(Pace())
        with pytest.raises(CellFailures, match=r"4\b.*it cannot be planned"):
            stage.run(config, root)
        assert [i for i in CELLS if (root / image_store(i)).is_dir()] == [3, 5]
