from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from brightfield.config.options import ComputeConfig, OnFailure
from brightfield.core.errors import BusyError, CellFailures, ConfigError, StackError
from brightfield.core.keys import read_failures, read_keys, write_keys
from brightfield.core.layout import IMAGES_DIR, image_store, keys_file
from brightfield.core.schema import SPLITS
from brightfield.core.tables import read_table, write_table
from brightfield.run import claim, store
from brightfield.run.adopt import cache_root
from brightfield.run.collect import gc, register, work_root
from brightfield.run.engine import Engine
from brightfield.run.workcache import CellTask, Done, WorkCache


def paint(root: Path, specimen_id: int, text: str) -> None:
    """A cell's share of the outputs: a store of two files and one row of a table."""
    if text == "broken":
        raise StackError("broken", path="x")
    store = root / image_store(specimen_id)
    (store / "0").mkdir(parents=True)
    (store / "zarr.json").write_text("{}")
    (store / "0" / "c").write_text(f"{specimen_id} {text}")
    rows = {"specimen_id": [specimen_id], "group_id": [text], "split": ["train"], "fold": [None], "reason": [None]}
    write_table(SPLITS, pd.DataFrame(rows), root)


def stray(root: Path) -> None:
    (root / "elsewhere").write_text("")


def slow_paint(root: Path, specimen_id: int, text: str) -> None:
    paint(root, specimen_id, text)
    if text == "slow":
        (root / IMAGES_DIR / f"{specimen_id}.started").touch()
        time.sleep(60)


HERE = Engine(ComputeConfig(workers=1))


def cache_of(root: Path) -> WorkCache:
    return WorkCache(root, "download", [IMAGES_DIR, SPLITS])


def task(specimen_id: int, text: str = "a", function: Any = paint) -> CellTask:
    return CellTask({"text": text}, function, (specimen_id, text))


def run(root: Path, texts: dict[int, str], workers: int = 1) -> Done:
    cache = WorkCache(root, "download", [IMAGES_DIR, SPLITS])
    return cache.run({i: task(i, text) for i, text in texts.items()}, Engine(ComputeConfig(workers=workers)).map)


def twenty(text: str = "a") -> dict[int, str]:
    return dict.fromkeys(range(1, 21), text)


def snapshot(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted((root / "data").rglob("*")) if path.is_file()}


def test_adding_one_cell_to_twenty_computes_one(tmp_path: Path) -> None:
    assert run(tmp_path, twenty()).computed == tuple(range(1, 21))
    done = run(tmp_path, {**twenty(), 21: "a"})
    assert done.computed == (21,)
    assert len(done.found) == 20
    assert str(done) == "1 computed, 20 found, 0 adopted"


def test_going_back_computes_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path, twenty("a"))
    first = snapshot(tmp_path)
    assert len(run(tmp_path, twenty("b")).computed) == 20
    assert snapshot(tmp_path) != first
    assert run(tmp_path, twenty("a")).computed == ()
    assert snapshot(tmp_path) == first


def test_outputs_do_not_depend_on_workers_history_or_deleted_outputs(tmp_path: Path) -> None:
    texts = {3: "c", 1: "a", 2: "b"}
    run(tmp_path / "one", texts)
    run(tmp_path / "two" / "deeper", {9: "x", 2: "b"})
    shutil.rmtree(tmp_path / "two" / "deeper" / "data")  # as DVC does before a stage
    run(tmp_path / "two" / "deeper", dict(sorted(texts.items())), workers=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two" / "deeper")


def test_a_removed_cell_leaves_all_outputs(tmp_path: Path) -> None:
    run(tmp_path, {1: "a", 2: "a"})
    run(tmp_path, {2: "a"})
    assert [path.name for path in (tmp_path / IMAGES_DIR).iterdir()] == ["2.zarr"]
    assert read_table(SPLITS, tmp_path)["specimen_id"].tolist() == [2]
    assert list(json.loads((tmp_path / keys_file("download")).read_text())) == ["2"]


def test_no_cells_give_empty_outputs(tmp_path: Path) -> None:
    run(tmp_path, {1: "a"})
    run(tmp_path, {})
    assert list((tmp_path / IMAGES_DIR).iterdir()) == []
    assert len(read_table(SPLITS, tmp_path)) == 0


def test_outputs_are_hard_links_and_read_only(tmp_path: Path) -> None:
    done = run(tmp_path, {1: "a"})
    inner = image_store(1) / "0" / "c"
    assert os.path.samefile(tmp_path / inner, done.directories[1] / inner)
    assert (tmp_path / inner).stat().st_mode & 0o222 == 0


def test_another_file_system_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    done = run(tmp_path, {1: "a"})
    inner = image_store(1) / "0" / "c"
    assert (tmp_path / inner).read_text() == "1 a"
    assert not os.path.samefile(tmp_path / inner, done.directories[1] / inner)
    assert run(tmp_path, {1: "a"}).computed == ()


def test_a_cell_edited_through_a_link_is_computed_again(tmp_path: Path) -> None:
    run(tmp_path, {1: "a", 2: "a"})
    path = tmp_path / image_store(1) / "0" / "c"
    path.chmod(0o644)
    path.write_text("1 b")
    assert run(tmp_path, {1: "a", 2: "a"}).computed == (1,)
    assert path.read_text() == "1 a"


def test_a_failed_cell_leaves_the_others_finished(tmp_path: Path) -> None:
    with pytest.raises(CellFailures, match=r"download: 1 cell\(s\) failed") as failure:
        run(tmp_path, {1: "a", 2: "broken", 3: "a"})
    assert failure.value.reasons == {2: "x: broken"}
    assert not (tmp_path / keys_file("download")).exists()
    done = run(tmp_path, {1: "a", 2: "mended", 3: "a"})
    assert done.computed == (2,)


def test_the_key_holds_cell_code_and_parameters(tmp_path: Path) -> None:
    cache = WorkCache(tmp_path, "download", [IMAGES_DIR])
    keys = {
        cache.key(1, task(1)),
        cache.key(2, task(1)),
        cache.key(1, task(1, "b")),
        cache.key(1, task(1, function=slow_paint)),
        WorkCache(tmp_path, "rasterize", [IMAGES_DIR]).key(1, task(1)),
        WorkCache(tmp_path, "download", [IMAGES_DIR], algorithm="2").key(1, task(1)),
    }
    assert len(keys) == 6
    assert cache.key(1, CellTask({"text": "a"}, paint, ("another", "machine"))) == cache.key(1, task(1))


def test_writing_beside_the_outputs_is_refused(tmp_path: Path) -> None:
    cache = WorkCache(tmp_path, "download", [IMAGES_DIR])
    with pytest.raises(CellFailures, match="writes elsewhere, which is no output"):
        cache.run({1: CellTask({}, stray)}, HERE.map)


def test_a_killed_run_keeps_finished_cells_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom test_workcache import *\n"
        f"cache = WorkCache(Path({str(tmp_path)!r}), 'download', [IMAGES_DIR, SPLITS])\n"
        "tasks = {i: task(i, 'slow' if i == 3 else 'a', slow_paint) for i in (1, 2, 3)}\n"
        "cache.run(tasks, HERE.map)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)])
    home = work_root(tmp_path) / "download"
    while not list(home.glob(".unfinished-*/cell/data/images/3.started")):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    cache = cache_of(tmp_path)
    assert not list(home.glob(".unfinished-*"))
    done = cache.run({i: task(i, "a", slow_paint) for i in (1, 2, 3)}, HERE.map)
    assert (done.found, done.computed) == ((1, 2), (3,))


def test_two_runs_may_finish_the_same_cell_at_once(tmp_path: Path) -> None:
    with store.unfinished(tmp_path) as first, store.unfinished(tmp_path) as second:
        for directory in (first, second):
            paint(directory, 1, "a")
            store.finish(directory, tmp_path / "k")
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert (tmp_path / "k" / image_store(1) / "0" / "c").read_text() == "1 a"


def test_a_finished_cell_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    with store.unfinished(tmp_path) as directory, pytest.raises(FileNotFoundError):
        store.finish(directory, tmp_path / "absent" / "k")


def test_directories_of_living_processes_are_left_alone(tmp_path: Path) -> None:
    with store.unfinished(tmp_path) as directory:
        store.remove_abandoned(tmp_path)
        assert directory.is_dir()


# ----------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("outputs_removed", [True, False], ids=["as DVC does", "by hand"])
@pytest.mark.parametrize("broken", [(2,), (1, 2, 3)], ids=["one", "all"])
def test_cells_that_fail_keep_what_they_had_byte_for_byte(tmp_path: Path, broken: tuple[int, ...], outputs_removed: bool) -> None:
    origin = tmp_path / "origin"
    run(origin, dict.fromkeys((1, 2, 3), "a"))
    root = pulled_clone(origin, tmp_path / "clone")
    run(root, dict.fromkeys((1, 2, 3), "a"))
    before = snapshot(root)
    if outputs_removed:
        shutil.rmtree(root / "data")
    with pytest.raises(CellFailures):
        run(root, {i: "broken" if i in broken else "a" for i in (1, 2, 3)})
    keys = str(keys_file("download"))
    assert {name: data for name, data in snapshot(root).items() if name != keys} == {k: v for k, v in before.items() if k != keys}


def test_without_a_work_cache_what_lies_in_the_outputs_of_a_failed_cell_stays(tmp_path: Path) -> None:
    run(tmp_path, {1: "a", 2: "a"})
    before = snapshot(tmp_path)
    shutil.rmtree(work_root(tmp_path))
    with pytest.raises(CellFailures):
        run(tmp_path, {1: "a", 2: "broken"})
    assert snapshot(tmp_path) == before


def test_cells_that_an_earlier_step_could_not_prepare_keep_what_they_had(tmp_path: Path) -> None:
    run(tmp_path, {1: "a", 2: "a"})
    before = snapshot(tmp_path)
    with pytest.raises(CellFailures, match="no answer"):
        cache_of(tmp_path).run({1: task(1)}, HERE.map, failed={2: "no answer"})
    assert snapshot(tmp_path) == before


def test_a_cell_can_be_gone_without_and_its_reason_is_kept(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    done = cache.run({1: task(1), 2: task(2, "broken")}, HERE.map, on_failure=OnFailure.exclude)
    assert (list(done.directories), done.failures) == ([1], {2: "x: broken"})
    assert [path.name for path in (tmp_path / IMAGES_DIR).iterdir()] == ["1.zarr"]
    assert read_failures(tmp_path) == {2: "download: x: broken"}
    assert list(read_keys(tmp_path, "download")) == [1]


def test_all_cells_are_never_gone_without(tmp_path: Path) -> None:
    run(tmp_path, {1: "a"})
    before = snapshot(tmp_path)
    cache = cache_of(tmp_path)
    with pytest.raises(CellFailures, match="every cell failed"):
        cache.run({1: task(1, "broken")}, HERE.map, on_failure=OnFailure.exclude)
    assert snapshot(tmp_path) == before


def test_reasons_that_are_kept_do_not_differ_from_run_to_run(tmp_path: Path) -> None:
    reason = f"http://127.0.0.1:4711/a: HTTP 500 (6 attempts), {tmp_path.resolve()}/data/1.swc:3: no number, /home/me/z1.tif"
    write_keys(tmp_path, "download", {}, {1: reason})
    assert read_failures(tmp_path) == {1: "download: a: HTTP 500, data/1.swc:3: no number, z1.tif"}


def test_what_is_found_is_never_prepared(tmp_path: Path) -> None:
    def prepare() -> tuple[int, str]:
        asked.append(1)
        return 1, "a"

    asked: list[int] = []
    cache = cache_of(tmp_path)
    for _ in range(2):
        cache.run({1: CellTask({"text": "a"}, paint, prepare)}, HERE.map)
    assert asked == [1]


# ---------------------------------------------------------------------------------------------------------- garbage collection


def test_gc_keeps_what_outputs_use_and_what_was_used_last(tmp_path: Path) -> None:
    oldest, older, present = (run(tmp_path, {1: text}).directories[1] for text in "abc")
    os.utime(oldest, (1, 1))
    os.utime(older, (2, 2))
    size = sum(path.stat().st_size for path in older.rglob("*") if path.is_file())
    assert gc(tmp_path, keep_bytes=size) == size
    assert [path.exists() for path in (oldest, older, present)] == [False, True, True]
    gc(tmp_path)
    assert [path.exists() for path in (older, present)] == [False, True]
    assert run(tmp_path, {1: "c"}).computed == ()


def left_behind(home: Path, **facts: object) -> Path:
    place = home / ".unfinished-0123"
    place.mkdir(parents=True)
    (place / "owner.json").write_text(json.dumps(facts))
    return place


@pytest.mark.parametrize(
    ("facts", "stays"), [({"host": socket.gethostname()}, False), ({"host": f"{socket.gethostname()}-2"}, True), ({}, True)]
)
def test_what_dead_runs_left_is_removed_if_it_is_ours_and_of_this_machine(tmp_path: Path, facts: dict[str, object], stays: bool) -> None:
    run(tmp_path, {1: "a"})
    left = left_behind(work_root(tmp_path) / "download", **facts)
    gc(tmp_path)
    assert left.exists() == stays


def test_gc_leaves_alone_what_does_not_bear_our_marks(tmp_path: Path) -> None:
    done = run(tmp_path, {1: "a"})
    home, key = work_root(tmp_path), done.directories[1].name
    theirs = [
        home / "results" / key / "table.csv",
        home / "download" / "results" / "cell.json",
        home / "download" / ("0" * 64) / "table.csv",
    ]
    theirs += [home / "align" / ".unfinished-other-group-7" / "x", home / "partial" / "results" / "journal", home / "clones" / "x.json"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours")
    shutil.rmtree(tmp_path / "data")
    gc(tmp_path)
    assert [path.read_text() for path in theirs] == ["not ours"] * len(theirs)


def shared_cache(root: Path, cache: Path) -> Path:
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text(f"[cache]\n    dir = {cache}\n")
    return root


def test_gc_keeps_what_another_clone_uses_until_that_is_gone(tmp_path: Path) -> None:
    one, two = (shared_cache(tmp_path / name, tmp_path / "shared" / "cache") for name in ("one", "two"))
    mine, its = run(one, {1: "a"}).directories[1], run(two, {1: "b"}).directories[1]
    shutil.rmtree(two / "data")  # as DVC does before a stage
    gc(one)
    assert (mine.exists(), its.exists()) == (True, True)
    shutil.rmtree(two)
    gc(one)
    assert (mine.exists(), its.exists()) == (True, False)


def test_gc_keeps_finished_cells_of_a_run_that_failed(tmp_path: Path) -> None:
    with pytest.raises(CellFailures):
        run(tmp_path, {1: "a", 2: "broken"})
    shutil.rmtree(tmp_path / "data")
    gc(tmp_path)
    assert run(tmp_path, {1: "a"}).found == (1,)


def test_gc_keeps_downloads_that_may_go_on(tmp_path: Path) -> None:
    wanted, other = "a" * 64, "b" * 64
    register(tmp_path, work_root(tmp_path), "download", {1: wanted})
    places = [work_root(tmp_path) / "partial" / f"1-{key[:16]}" for key in (wanted, other)]
    for place in places:
        place.mkdir(parents=True)
        (place / "journal").write_text("")
    gc(tmp_path)
    assert [place.exists() for place in places] == [True, False]


def test_gc_waits_for_a_run_of_any_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "PATIENCE_S", 0.0)
    one, two = (shared_cache(tmp_path / name, tmp_path / "shared" / "cache") for name in ("one", "two"))
    unused, _ = (run(two, {1: text}).directories[1] for text in "ab")
    with claim.at_work(two, work_root(two)), pytest.raises(BusyError, match="is in use by"):
        gc(one)
    assert unused.exists()
    gc(one)
    assert not unused.exists()


@pytest.mark.parametrize("place", ["", ".", "..", "/", "data", "data/images", ".git", "src/x", "../.", "reports"])
def test_a_place_that_is_not_for_finished_cells_alone_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigError, match=r"compute\.work_dir = .* not for finished cells alone"):
        work_root(tmp_path, place)
    with pytest.raises(ConfigError, match="not for finished cells alone"):
        work_root(tmp_path, tmp_path / place)


def test_the_repository_and_what_holds_it_are_refused_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "by another name").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path.parent, tmp_path / "by another name", tmp_path / "x" / ".."):
        with pytest.raises(ConfigError):
            work_root(tmp_path, place)
    assert work_root(tmp_path, "finished") == tmp_path / "finished"


def test_the_work_cache_lies_beside_the_dvc_cache(tmp_path: Path) -> None:
    assert work_root(tmp_path) == tmp_path / ".work"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    remote = x\n['remote \"x\"']\n    url = /r\n[cache]\n    dir = /shared/dvc-cache\n"
    )
    assert cache_root(tmp_path) == Path("/shared/dvc-cache")
    assert work_root(tmp_path) == Path("/shared/.work")
    (tmp_path / ".dvc" / "config.local").write_text("[cache]\n    dir = /elsewhere/main/.dvc/cache\n")  # as `dvc exp run --temp` does
    assert work_root(tmp_path) == Path("/elsewhere/main/.work")


# ------------------------------------------------------------------------------------------------------------- adoption


def put_object(root: Path, content: bytes, suffix: str = "") -> str:
    md5 = hashlib.md5(content).hexdigest()
    path = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / f"{md5[2:]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5 + suffix


def pulled_clone(origin: Path, clone: Path) -> Path:
    """What a teammate has after `git clone` and `dvc pull`: dvc.lock and the DVC cache."""
    files = sorted(path for path in (origin / IMAGES_DIR).rglob("*") if path.is_file())
    listing = [{"md5": put_object(clone, path.read_bytes()), "relpath": path.relative_to(origin / IMAGES_DIR).as_posix()} for path in files]
    outs = [{"path": str(IMAGES_DIR), "hash": "md5", "md5": put_object(clone, json.dumps(listing).encode(), ".dir")}]
    outs += [
        {"path": str(path), "hash": "md5", "md5": put_object(clone, (origin / path).read_bytes())}
        for path in (SPLITS.path, keys_file("download"))
    ]
    (clone / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"download": {"cmd": "x", "outs": outs}}}))
    return clone


def test_a_clone_that_only_pulled_computes_only_the_new_cell(tmp_path: Path) -> None:
    run(tmp_path / "origin", twenty())
    run(tmp_path / "reference", {**twenty(), 21: "new"})
    clone = pulled_clone(tmp_path / "origin", tmp_path / "clone")
    done = run(clone, {**twenty(), 21: "new"})
    assert (done.computed, len(done.adopted)) == ((21,), 20)
    assert snapshot(clone) == snapshot(tmp_path / "reference")
    assert run(clone, twenty()).computed == ()


def export(root: Path, specimen_id: int) -> None:
    """Files that are named after a cell with more behind, as the SWC exports are."""
    (root / IMAGES_DIR).mkdir(parents=True)
    for unit in ("um", "voxels"):
        (root / IMAGES_DIR / f"{specimen_id}_{unit}.swc").write_text(f"{specimen_id} {unit}")
    rows = {"specimen_id": [specimen_id], "group_id": ["g"], "split": ["train"], "fold": [None], "reason": [None]}
    write_table(SPLITS, pd.DataFrame(rows), root)


def test_an_adopted_cell_has_all_of_its_files(tmp_path: Path) -> None:
    tasks = {i: CellTask({}, export, (i,)) for i in (1, 11)}
    cache_of(tmp_path / "origin").run(tasks, HERE.map)
    clone = pulled_clone(tmp_path / "origin", tmp_path / "clone")
    assert cache_of(clone).run(tasks, HERE.map).adopted == (1, 11)
    assert snapshot(clone) == snapshot(tmp_path / "origin")


def test_a_cell_whose_parameters_changed_is_not_adopted(tmp_path: Path) -> None:
    run(tmp_path / "origin", {1: "a", 2: "a"})
    clone = pulled_clone(tmp_path / "origin", tmp_path / "clone")
    done = run(clone, {1: "b", 2: "a"})
    assert (done.computed, done.adopted) == ((1,), (2,))


@pytest.mark.parametrize("damage", ["absent", "corrupt"])
def test_a_cell_whose_objects_are_not_all_sound_is_not_adopted(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "origin", {1: "a", 2: "a"})
    clone = pulled_clone(tmp_path / "origin", tmp_path / "clone")
    md5 = hashlib.md5(b"1 a").hexdigest()
    path = clone / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    path.unlink() if damage == "absent" else path.write_text("1 x")
    done = run(clone, {1: "a", 2: "a"})
    assert (done.computed, done.adopted) == ((1,), (2,))
    assert (clone / image_store(1) / "0" / "c").read_text() == "1 a"
