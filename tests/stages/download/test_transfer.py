from __future__ import annotations

import hashlib
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from brightfield.config.options import ComputeConfig, CoverageKind, ImageConfig
from brightfield.core.cell import Cell, Crop, Plane, Stack
from brightfield.core.errors import StackError, TransferError
from brightfield.core.schema import TILES
from brightfield.core.tables import read_table, write_table
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.http.client import HttpClient
from brightfield.sources.mirror.faults import Faults
from brightfield.sources.mirror.server import serve
from brightfield.stages.download import transfer
from brightfield.stages.download import units as units_module
from brightfield.stages.download.plan import CellPlan, plan_cell
from brightfield.stages.download.transfer import IMAGE_NAME, download_cell
from brightfield.testing.skeletons import cable
from brightfield.testing.source import small_catalog, small_cell
from brightfield.volumes.volume import open_volume
from warm import process_of

CHUNK = (16, 128, 128)
OPTIONS = ImageConfig(tile_px=64, radius_um=3.0, shard_zyx=[16, 128, 128])
SKELETON = cable(35.0, start_zyx_um=(4.0, 12.0, 4.0))


def a_cell(n_planes: int = 40, height: int = 300, width: int = 420, *, bits: int = 8, missing: tuple[int, ...] = ()) -> Cell:
    planes = tuple(Plane(i, i + 7, 100 + i, i not in missing, "section 9 failed" if i in missing else None) for i in range(n_planes))
    return Cell(5, "five", 1, "Mus musculus", stack=Stack(1, width, height, 0.1144, 0.28, planes, bits=bits))


def pattern(plane: int, top: int, left: int, shape: tuple[int, int], dtype: str = "u1") -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Pixels that tell where they are from; never 0."""
    y, x = np.ogrid[top : top + shape[0], left : left + shape[1]]
    value = (plane * 31 + y * 7 + x * 13 + (y * x) % 11) % (250 if dtype == "u1" else 60000) + 1
    return value.astype(dtype)


@dataclass
class PatternSource:
    """A source of `pattern`; `interfere` sees every crop first and may raise."""

    interfere: Callable[[Crop], object] = lambda crop: None
    dtype: str = "u1"
    crops: list[Crop] = field(default_factory=list)
    base_url: str = "pattern"
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        self.closed.set()

    def pixels(self, cell: Cell, crop: Crop) -> NDArray[np.uint8] | NDArray[np.uint16]:
        with self.lock:
            self.crops.append(crop)
        self.interfere(crop)
        shape, shrink = crop.shape_yx, 1 << crop.level
        return pattern(crop.plane.plane, crop.top // shrink, crop.left // shrink, shape, self.dtype)


def run(cell: Cell, plan: CellPlan, source: PatternSource, directory: Path, **options: object) -> pd.DataFrame:
    return download_cell(cell, plan, source, directory, **{"chunk_zyx": CHUNK, "connections": 4, **options})  # type: ignore[arg-type]


def files_of(directory: Path) -> dict[str, str]:
    """Name and hash of every file of the image."""
    image = directory / IMAGE_NAME
    return {str(p.relative_to(image)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(image.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "UNIT_BYTES", 200_000)


CASES = {
    "skeleton": OPTIONS,
    "full": replace(OPTIONS, coverage=CoverageKind.full),
    "box": replace(OPTIONS, coverage=CoverageKind.box, margin_um=2.0),
    "coarse": replace(OPTIONS, level=1, z_step=3, tile_px=32, shard_zyx=[16, 64, 64]),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("case", CASES)
def test_every_planned_pixel_lands_in_its_voxel_and_nothing_else_is_written(tmp_path: Path, case: str, bits: int) -> None:
    cell, dtype = a_cell(bits=bits), "u1" if bits == 8 else "<u2"
    plan = plan_cell(cell, SKELETON, CASES[case])
    ledger = run(cell, plan, PatternSource(dtype=dtype), tmp_path, chunk_zyx=(8, 32, 64))
    expected = np.zeros(plan.grid.shape_zyx, dtype)
    for row in ledger.itertuples():
        pixels = pattern(row.z * plan.z_step, row.y0, row.x0, (row.y1 - row.y0, row.x1 - row.x0), dtype)
        assert row.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert row.bytes == pixels.nbytes
        expected[row.z, row.y0 : row.y1, row.x0 : row.x1] = pixels
    volume = open_volume(tmp_path / IMAGE_NAME)
    assert volume.grids[0] == plan.grid
    assert volume.arrays[0].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.read(), expected)
    assert set(ledger["state"]) == {"ok"}


def test_the_ledger_is_the_plan_and_keeps_the_contract_of_its_table(tmp_path: Path) -> None:
    cell = a_cell(missing=(12, 13))
    plan = plan_cell(cell, SKELETON, OPTIONS)
    write_table(TILES, run(cell, plan, PatternSource(), tmp_path / "work"), tmp_path)
    table = read_table(TILES, tmp_path)
    for name in plan.tiles.columns:
        assert table[name].tolist() == plan.tiles[name].tolist()


def test_planes_that_the_source_lacks_are_listed_and_never_asked_for(tmp_path: Path) -> None:
    cell = a_cell(missing=(12, 13))
    plan = plan_cell(cell, SKELETON, OPTIONS)
    source = PatternSource()
    ledger = run(cell, plan, source, tmp_path)
    missing = ledger[ledger["state"] == "missing"]
    assert set(missing["z"]) == {12, 13}
    assert set(missing["reason"]) == {"section 9 failed"}
    assert missing["sha256"].isna().all()
    assert not {12, 13} & {crop.plane.plane for crop in source.crops}
    assert not open_volume(tmp_path / IMAGE_NAME).read(((12, 14), (0, 300), (0, 420))).any()


def test_neighbours_share_a_request(tmp_path: Path) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    source = PatternSource()
    run(cell, plan, source, tmp_path)
    assert len(source.crops) == plan.n_requests < len(plan.tiles)
    assert len({(c.plane.plane, c.top, c.left) for c in source.crops}) == plan.n_requests


def test_the_same_bytes_whatever_the_threads_and_the_order_of_answers(tmp_path: Path) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    run(cell, plan, PatternSource(), tmp_path / "one", connections=1)
    rng = np.random.default_rng(0)
    delays = rng.exponential(0.002, 10_000)
    slow = PatternSource(lambda crop: time.sleep(delays[crop.plane.plane * 97 + crop.left]))
    ledger = run(cell, plan, slow, tmp_path / "many", connections=9)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "many")
    pd.testing.assert_frame_equal(ledger, run(cell, plan, PatternSource(), tmp_path / "again", connections=2))


def test_what_cannot_be_had_fails_the_cell_and_says_what_to_do(tmp_path: Path) -> None:
    def interfere(crop: Crop) -> None:
        if crop.plane.plane == 14:
            raise TransferError("http://x/14: HTTP 404 (3 attempts)", reason="HTTP 404", absent=True)

    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    with pytest.raises(TransferError, match=r"cell 5, plane 14, .*HTTP 404.*download.allow_missing=true"):
        run(cell, plan, PatternSource(interfere), tmp_path)
    source = PatternSource(interfere)
    ledger = run(cell, plan, source, tmp_path, allow_missing=True)
    missing = ledger[ledger["state"] == "missing"]
    assert set(missing["z"]) == {14}
    assert set(missing["reason"]) == {"HTTP 404"}
    assert not open_volume(tmp_path / IMAGE_NAME).read(((14, 15), (0, 300), (0, 420))).any()


def test_a_merged_request_that_fails_is_asked_for_in_ever_smaller_parts(tmp_path: Path) -> None:
    def capped(crop: Crop) -> None:
        if max(crop.width, crop.height) > 64:
            raise TransferError("too large: expected (64, 128), found (64, 64)", reason="the picture has the wrong size")

    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    run(cell, plan, PatternSource(), tmp_path / "clean")
    run(cell, plan, PatternSource(capped), tmp_path / "capped")
    assert files_of(tmp_path / "clean") == files_of(tmp_path / "capped")


@pytest.mark.parametrize("error", [TransferError("x: stalled (6 attempts)", reason="stalled"), StackError("cannot be decoded")])
def test_only_the_tiles_that_fail_are_missing(tmp_path: Path, error: Exception) -> None:
    def interfere(crop: Crop) -> None:
        if crop.plane.plane == 14 and crop.left <= 128 < crop.left + crop.width and crop.top <= 64 < crop.top + crop.height:
            raise error

    cell = a_cell()
    ledger = run(cell, plan_cell(cell, SKELETON, OPTIONS), PatternSource(interfere), tmp_path, allow_missing=True)
    missing = ledger[ledger["state"] == "missing"]
    assert len(missing) > 0
    assert set(missing["z"]) == {14}
    assert set(missing["x0"]) == {128}
    assert set(missing["y0"]) == {64}


def test_a_missing_tile_shows_nothing_of_what_its_memory_held_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "UNIT_BYTES", 1)
    cell = a_cell()
    plan = plan_cell(cell, None, replace(OPTIONS, coverage=CoverageKind.full))
    source = PatternSource()

    def lack(crop: Crop) -> None:
        if (crop.plane.plane + crop.top + crop.left) % 3 == 0 or max(crop.width, crop.height) > OPTIONS.tile_px:
            raise TransferError("x: connection broken (1 attempt)", reason="connection broken")

    source.interfere = lack
    ledger = run(cell, plan, source, tmp_path, allow_missing=True, connections=1)
    image = open_volume(tmp_path / IMAGE_NAME).read()
    missing = ledger[ledger["state"] == "missing"]
    assert 0 < len(missing) < len(ledger)
    for tile in missing.itertuples():
        assert not image[tile.z, tile.y0 : tile.y1, tile.x0 : tile.x1].any()
    for tile in ledger[ledger["state"] == "ok"].itertuples():
        assert image[tile.z, tile.y0 : tile.y1, tile.x0 : tile.x1].all()


def test_a_plane_that_is_gone_is_asked_for_once(tmp_path: Path) -> None:
    def gone(crop: Crop) -> None:
        if crop.plane.plane == 12:
            raise TransferError("x: HTTP 404 (3 attempts)", reason="HTTP 404", absent=True)

    cell = a_cell()
    plan = plan_cell(cell, SKELETON, CASES["full"])
    source = PatternSource(gone)
    ledger = run(cell, plan, source, tmp_path, allow_missing=True, connections=1)
    assert sum(crop.plane.plane == 12 for crop in source.crops) == 1
    missing = ledger[ledger["state"] == "missing"]
    assert set(missing["z"]) == {12}
    assert len(missing) == (ledger["z"] == 12).sum() > 10
    assert set(missing["reason"]) == {"HTTP 404"}


@pytest.mark.parametrize("wrong", ["shape", "dtype"])
def test_pixels_of_another_kind_are_never_written(tmp_path: Path, wrong: str) -> None:
    class Wrong(PatternSource):
        def pixels(self, cell: Cell, crop: Crop) -> NDArray[np.uint8] | NDArray[np.uint16]:
            pixels = super().pixels(cell, crop)
            return pixels[:-1] if wrong == "shape" else pixels.astype(np.uint16)

    cell = a_cell()
    with pytest.raises(TransferError, match="expected uint8 pixels of shape"):
        run(cell, plan_cell(cell, SKELETON, OPTIONS), Wrong(), tmp_path)
    assert not [path for path in (tmp_path / IMAGE_NAME / "0").rglob("*") if path.is_file() and path.name.isdigit()]


# ---------------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("stop_after", [0, 1, 7, 40, 90, 150])
def test_an_interrupted_cell_goes_on_where_it_stopped(tmp_path: Path, stop_after: int) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, replace(OPTIONS, coverage=CoverageKind.box))
    clean = run(cell, plan, PatternSource(), tmp_path / "clean")
    first = PatternSource()

    def interfere(crop: Crop) -> None:
        if len(first.crops) > stop_after:
            raise TransferError("x: connection broken (1 attempt)", reason="connection broken", absent=True)

    first.interfere = interfere
    with pytest.raises(TransferError):
        run(cell, plan, first, tmp_path / "broken", connections=2)
    second = PatternSource()
    ledger = run(cell, plan, second, tmp_path / "broken")
    pd.testing.assert_frame_equal(ledger, clean)
    assert files_of(tmp_path / "clean") == files_of(tmp_path / "broken")
    in_flight = 2 * max(len(unit.requests) for unit in plan.units)
    assert stop_after + len(second.crops) <= plan.n_requests + in_flight
    third = PatternSource()
    pd.testing.assert_frame_equal(run(cell, plan, third, tmp_path / "broken"), clean)
    assert not third.crops
    assert files_of(tmp_path / "clean") == files_of(tmp_path / "broken")


def test_ctrl_c_waits_for_no_answer_that_may_never_come(tmp_path: Path) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    source, is_silent = PatternSource(), threading.Event()

    def answer_first(crop: Crop) -> None:
        if len(source.crops) > 5:
            is_silent.set()
            if not source.closed.wait(60):
                raise TransferError("stalled")

    def interrupt(main: int) -> None:
        if is_silent.wait(60):
            signal.pthread_kill(main, signal.SIGINT)

    source.interfere = answer_first
    threading.Thread(target=interrupt, args=(threading.get_ident(),), daemon=True).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(cell, plan, source, tmp_path)
    assert time.monotonic() - started < 30, "no thread waited for its answer to the end"
    assert source.closed.is_set()
    clean = run(cell, plan, PatternSource(), tmp_path / "clean")
    pd.testing.assert_frame_equal(run(cell, plan, PatternSource(), tmp_path), clean)


def test_a_finished_unit_that_was_touched_is_fetched_again(tmp_path: Path) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    run(cell, plan, PatternSource(), tmp_path)
    clean = files_of(tmp_path)
    shard = max((tmp_path / IMAGE_NAME / "0" / "c").rglob("*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    source = PatternSource()
    run(cell, plan, source, tmp_path)
    assert 0 < len(source.crops) < plan.n_requests
    assert files_of(tmp_path) == clean


def test_files_that_the_journal_does_not_know_are_not_believed(tmp_path: Path) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    run(cell, plan, PatternSource(), tmp_path)
    clean = files_of(tmp_path)
    stray = tmp_path / IMAGE_NAME / "0" / "c" / "9" / "9" / ".9.part"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half a shard")
    run(cell, plan, PatternSource(), tmp_path)
    assert files_of(tmp_path) == clean
    assert not stray.parent.parent.exists()


@pytest.mark.parametrize("change", ["plan", "attributes", "chunks", "stack"])
def test_work_of_another_plan_is_started_over(tmp_path: Path, change: str) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    run(cell, plan, PatternSource(), tmp_path)
    options: dict[str, object] = {}
    if change == "plan":
        plan = plan_cell(cell, SKELETON, replace(OPTIONS, radius_um=4.0))
    elif change == "stack":
        planes = tuple(replace(plane, sub_image_id=900 + plane.plane) for plane in a_cell().stack.planes)  # type: ignore[union-attr]
        cell = replace(cell, stack=replace(cell.stack, planes=planes))  # type: ignore[type-var]
    else:
        options = {"attributes": {"a": 1}} if change == "attributes" else {"chunk_zyx": (8, 128, 128)}
    source = PatternSource()
    run(cell, plan, source, tmp_path, **options)
    assert len(source.crops) == plan.n_requests


def test_two_processes_do_not_work_on_one_cell(tmp_path: Path) -> None:
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, OPTIONS)
    failures: list[str] = []

    def meanwhile(crop: Crop) -> None:
        if not failures:
            with pytest.raises(TransferError, match="another process is at work here") as raised:
                run(cell, plan, PatternSource(), tmp_path)
            failures.append(str(raised.value))

    run(cell, plan, PatternSource(meanwhile), tmp_path, connections=1)
    assert failures


def test_progress_adds_up_to_the_plan(tmp_path: Path) -> None:
    cell = a_cell(missing=(12,))
    plan = plan_cell(cell, SKELETON, OPTIONS)
    seen: list[int] = []
    run(cell, plan, PatternSource(), tmp_path, progress=seen.append)
    assert sum(seen) == plan.n_bytes


def test_pixels_in_flight_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_OPEN_BYTES", 400_000)
    cell = a_cell()
    plan = plan_cell(cell, SKELETON, CASES["full"])
    seen = []
    begin = transfer._Writer.begin

    def watch(self: transfer._Writer, number: int, unit: units_module.Unit) -> None:
        begin(self, number, unit)
        seen.append(self.open_bytes)

    monkeypatch.setattr(transfer._Writer, "begin", watch)
    run(cell, plan, PatternSource(), tmp_path)
    assert len(seen) == len(plan.units) > 10
    largest = max(unit.n_bytes for unit in plan.units)
    assert max(seen) <= max(400_000, largest)


def test_memory_does_not_grow_with_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ImageConfig(coverage=CoverageKind.full, tile_px=128, shard_zyx=[8, 256, 256])
    slab = 8 * 512 * 512
    monkeypatch.setattr(units_module, "UNIT_BYTES", slab // 2)
    monkeypatch.setattr(transfer, "_OPEN_BYTES", slab)

    def peak_of(n_planes: int) -> int:
        cell = a_cell(n_planes, 512, 512)
        plan = plan_cell(cell, None, options)
        assert len(plan.units) == 2 * n_planes // 8
        tracemalloc.start()
        download_cell(cell, plan, PatternSource(), tmp_path / str(n_planes), chunk_zyx=(8, 128, 128), connections=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_of(8)  # imports and caches
    few, many = peak_of(32), peak_of(128)
    assert many < 1.25 * few + 128 * 16 * 2000  # the ledger may grow: 16 tiles a plane


# ------------------------------------------------------------------------------------------------------- through a real server


REMOTE = small_cell(5, n_planes=36, height_px=400, width_px=500, missing=(9,))
REMOTE_PLAN = ImageConfig(coverage=CoverageKind.box, margin_um=6.0, tile_px=64, shard_zyx=[16, 128, 128])
PATIENT = ComputeConfig(connections=6, timeout_s=0.4, retries=6)


def fetch(base_url: str, directory: Path, options: ComputeConfig = PATIENT) -> pd.DataFrame:
    with HttpClient(options, backoff_s=0.005) as client:
        plan = plan_cell(REMOTE, SKELETON, REMOTE_PLAN)
        return download_cell(REMOTE, plan, AllenSource(client, base_url), directory, chunk_zyx=CHUNK, connections=6)


@pytest.mark.parametrize("seed", [0, 1])
def test_with_a_tenth_of_the_answers_broken_the_bytes_are_the_same_for_few_more_requests(tmp_path: Path, seed: int) -> None:
    with serve(small_catalog(REMOTE)) as mirror:
        clean = fetch(mirror.base_url, tmp_path / "clean")
        n_requests = len(mirror.requests)
    faults = replace(Faults.everything(0.1, seed=seed), retry_after_s=0, stall_s=5)
    with serve(small_catalog(REMOTE), faults=faults) as mirror:
        ledger = fetch(mirror.base_url, tmp_path / "faulty")
        assert len({request.fault for request in mirror.requests}) >= 10
        assert n_requests < len(mirror.requests) <= 1.3 * n_requests
    pd.testing.assert_frame_equal(ledger, clean)
    assert files_of(tmp_path / "clean") == files_of(tmp_path / "faulty")


def fetch_alone(base_url: str, directory: Path) -> None:
    """`fetch` with small units, in a process of its own."""
    units_module.UNIT_BYTES, transfer._OPEN_BYTES = 200_000, 400_000
    fetch(base_url, directory)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_the_result_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_OPEN_BYTES", 400_000)
    plan = plan_cell(REMOTE, SKELETON, REMOTE_PLAN)
    rng = np.random.default_rng(4)
    killed_at = []
    with serve(small_catalog(REMOTE)) as mirror:
        clean = fetch(mirror.base_url, tmp_path / "clean")
        for number in range(20):
            directory = tmp_path / str(number)
            mirror.forget()
            child = process_of(fetch_alone, mirror.base_url, directory)
            wanted = rng.integers(1, plan.n_requests + 1)
            while len(mirror.requests) < wanted and child.is_alive():
                time.sleep(0.001)
            time.sleep(0.05 * rng.random())
            child.kill()
            child.join()
            killed_at.append(len(mirror.requests))
            pd.testing.assert_frame_equal(fetch(mirror.base_url, directory), clean)
            assert files_of(directory) == files_of(tmp_path / "clean")
            open_requests = 3 * max(len(unit.requests) for unit in plan.units)
            assert len(mirror.requests) <= plan.n_requests + open_requests
    assert len(set(killed_at)) > 10
