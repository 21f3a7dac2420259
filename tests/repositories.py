"""Small data repositories, real to git and DVC, with a few bytes for volumes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from brightfield.config.compose import compose, write_params
from brightfield.core.layout import IMAGES_DIR, LABELS_DIR, SKELETONS_DIR, image_store, label_store, skeleton_file
from brightfield.core.schema import MANIFEST, SPLITS, TILES
from brightfield.core.tables import frame_of, write_table
from brightfield.testing.dataset import table_row

REPOSITORY = Path(__file__).resolve().parents[1]


def command(root: Path, *words: str, ok: bool = True) -> str:
    """Run a command; returns what it said."""
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, timeout=560)
    assert (done.returncode == 0) == ok, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def write_dataset(root: Path, cells: Mapping[int, Mapping[str, Any]]) -> None:
    """Outputs of a dataset: per cell `split`, the texts `image` and `labels` as volumes, `skeleton`, and other columns of the manifest."""
    shutil.rmtree(root / "data", ignore_errors=True)
    rows, tiles = [], []
    for i, given in cells.items():
        cell = {"split": "train", "image": f"image {i}", "labels": f"labels {i}", "skeleton": f"swc {i}", **given}
        texts = {image_store(i) / "0" / "c": cell["image"], label_store(i) / "0" / "c": cell["labels"], skeleton_file(i): cell["skeleton"]}
        for path, text in texts.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        digest = {name: hashlib.sha256(cell.pop(name).encode()).hexdigest() for name in ("image", "labels", "skeleton")}
        paths = {"image_path": str(image_store(i)), "label_path": str(label_store(i)), "skeleton_path": str(skeleton_file(i))}
        hashes = {"image_sha256": digest["image"], "label_sha256": digest["labels"], "skeleton_sha256": digest["skeleton"]}
        pixels = hashlib.sha256(str(cell.pop("pixels", digest["image"])).encode()).hexdigest()
        rows.append(table_row(MANIFEST, specimen_id=i, **paths, **hashes, **cell))
        tiles.append(table_row(TILES, specimen_id=i, sha256=pixels, state="ok"))
    write_table(MANIFEST, frame_of(MANIFEST, rows), root)
    write_table(TILES, frame_of(TILES, tiles), root)
    splits = [table_row(SPLITS, specimen_id=row["specimen_id"], split=row["split"]) for row in rows]
    write_table(SPLITS, frame_of(SPLITS, splits), root)


def pushed_dataset(root: Path, folder: Path) -> Path:
    """A repository whose version v1 is the dataset at `root`, in the remote `folder`/store alone: it has neither data nor cache."""
    repository = folder / "repository"
    shutil.copytree(root, repository)
    command(repository, "git", "init", "-q")
    command(repository, "dvc", "init", "-q")
    command(repository, "dvc", "remote", "add", "-q", "-d", "store", str(folder / "store"))
    command(repository, "dvc", "add", "-q", "data")
    command(repository, "dvc", "push", "-q")
    command(repository, "git", "add", "-A")
    command(repository, "git", "commit", "-q", "-m", "data")
    command(repository, "git", "tag", "v1")
    shutil.rmtree(repository / ".dvc/cache")
    shutil.rmtree(repository / "data")
    return repository


def data_repository(root: Path, cells: Mapping[int, Mapping[str, Any]]) -> Path:
    """A repository with git, DVC, our configuration, and one stage that has made the dataset."""
    shutil.copytree(REPOSITORY / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    (root / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / ".gitignore").write_text("/data/\n/.work/\n")
    outs = [path.as_posix() for path in (SKELETONS_DIR, IMAGES_DIR, LABELS_DIR, MANIFEST.path, TILES.path, SPLITS.path)]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"build": {"cmd": "true", "outs": outs}}}))
    command(root, "git", "init", "-q")
    commit_version(root, cells)
    return root


def commit_version(root: Path, cells: Mapping[int, Mapping[str, Any]], tag: str = "", overrides: tuple[str, ...] = ()) -> None:
    """Another version of the dataset: outputs, params.yaml, dvc.lock, commit, tag."""
    write_dataset(root, cells)
    write_params(compose(overrides, root), root)
    command(root, "dvc", "commit", "-q", "-f")
    command(root, "git", "add", "-A")
    command(root, "git", "commit", "-q", "--allow-empty", "-m", "data")
    if tag:
        command(root, "git", "tag", "-a", tag, "-m", tag)
