"""A part of the dataset fetched from the team remote: one split, some cells, labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from brightfield.core.codes import Split
from brightfield.core.errors import ConfigError, TransferError
from brightfield.core.layout import CARD_FILE, CROISSANT_FILE, FILES_FILE, HUB_DIR, IMAGES_DIR, LABELS_DIR, SKELETONS_DIR
from brightfield.core.schema import CELLS, MANIFEST, SPLITS
from brightfield.core.yaml import read_yaml
from brightfield.run.adopt import Tracked
from brightfield.versions.diff import is_null, manifest_at
from brightfield.versions.team import fault, in_words, team_repo


def pull(root: Path, *, split: str | None = None, cells: Sequence[int] = (), labels_only: bool = False) -> list[str]:
    """Fetch a part of the dataset from the team remote: the tables, and the skeletons, labels and images of the chosen cells or of all.

    Returns what was asked of DVC. Raises ConfigError for an unknown split or cell, TransferError, naming the files, where some cannot be
    had or arrive damaged.
    """
    _dvc_pull(root, [str(path) for path in _tables(root)])
    targets = pull_targets(root, split=split, cells=cells, labels_only=labels_only)
    _dvc_pull(root, targets)
    return targets


def pull_targets(root: Path, *, split: str | None = None, cells: Sequence[int] = (), labels_only: bool = False) -> list[str]:
    """The DVC targets of a part of the dataset; needs the splits table."""
    if split is None and not cells:
        chosen = [SKELETONS_DIR, LABELS_DIR] if labels_only else [SKELETONS_DIR, LABELS_DIR, IMAGES_DIR]
        return [path.as_posix() for path in chosen]
    if split is not None and split not in list(Split):
        raise ConfigError(f"split={split}: one of {', '.join(Split)}")
    manifest = manifest_at(root, None)
    unknown = sorted(set(cells) - set(manifest.index))
    if unknown:
        raise ConfigError(f"this version has no cell {', '.join(map(str, unknown))}")
    wanted = [*cells, *(manifest.index[manifest["split"] == split] if split is not None else [])]
    columns = ["skeleton_path", "marker_path", "label_path", *([] if labels_only else ["image_path"])]
    paths = (manifest[column][i] for i in sorted(set(wanted)) for column in columns)
    return [str(path) for path in paths if not is_null(path)]


def _tables(root: Path) -> list[Path]:
    """Tracked files that are no volumes and no skeletons."""
    lock = read_yaml(root / "dvc.lock", "dvc.lock")
    outs = [Path(out["path"]) for stage in lock["stages"].values() for out in stage.get("outs", [])]
    small = {MANIFEST.path, SPLITS.path, CELLS.path, CROISSANT_FILE, CARD_FILE, FILES_FILE, HUB_DIR}
    return [path for path in outs if path in small or path.suffix == ".parquet"]


def _dvc_pull(root: Path, targets: Sequence[str]) -> None:
    """`dvc pull` of what is not here as `dvc.lock` has it."""
    tracked = next(Tracked.versions(root), None)
    missing = [target for target in targets if tracked is None or not tracked.is_checked_out(root, Path(target))]
    if not missing:
        return
    with team_repo(root) as repo:
        _take_outputs_alone(repo)
        try:
            repo.pull(targets=[str(root.resolve() / target) for target in missing])
        except Exception as error:  # each kind of remote brings exceptions of its own
            raise TransferError(_told(error, repo, missing)) from error


def _take_outputs_alone(repo: Any) -> None:
    """Targets are outputs: DVC would read dvc.yaml and dvc.lock twice for each of them, to see whether it is a stage."""
    from dvc.repo.stage import StageInfo

    def stage_of(target: str, *_: object, **__: object) -> list[StageInfo]:
        return [StageInfo(out.stage, target) for out in repo.find_outs_by_path(target, strict=False)]

    repo.stage.collect_granular = stage_of


def _told(error: Exception, repo: Any, targets: Sequence[str]) -> str:
    try:
        lost = "\n".join(f"  {line}" for line in _lost_files(repo, targets))
    except Exception as refusal:  # the remote does not answer at all: that says more than what did not come
        return in_words(refusal)
    if not lost:
        return in_words(error)
    return f"the remote does not give what dvc.lock names:\n{lost}\nask for `brightfield push --repair` from a clone that has it"


def _lost_files(repo: Any, targets: Sequence[str]) -> Iterator[str]:
    """The files below `targets` that did not come, and whether the remote lacks them or has them damaged."""
    index = repo.index.data["repo"]
    for key, entry in (item for target in targets for item in index.iteritems(tuple(target.split("/"))) if not item[1].isdir):
        storage = index.storage_map[key]
        cache, cached = storage.cache.get(entry)
        if not cache.exists(cached):
            remote, path = storage.remote.get(entry)
            yield f"{'/'.join(key)}: {fault(remote, path, entry.hash_info.value) or 'not fetched from the remote'} ({path})"
