"""What DVC already has: cells that a clone has only pulled are taken from the DVC cache."""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from brightfield.core.errors import ConfigError
from brightfield.core.files import link
from brightfield.core.layout import owner_of
from brightfield.core.schema import Table
from brightfield.core.tables import read_table, write_table
from brightfield.core.yaml import parse_yaml


def cache_root(root: Path) -> Path:
    """The DVC cache of the repository at `root`, read from its configuration: importing dvc for this takes a second."""
    for name in ("config.local", "config"):
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(root / ".dvc" / name)
        if parser.has_option("cache", "dir"):
            return (root / ".dvc" / parser.get("cache", "dir").strip("\"'")).resolve()
    return (root / ".dvc" / "cache").resolve()


BRANCHES = 20
"""Branches whose `dvc.lock` is looked at, those with the newest commits."""

Share = Callable[[int, Path], bool]
"""Puts one cell's share of an output below a directory; False where it cannot be had."""


@dataclass(frozen=True)
class Tracked:
    """The outputs that a `dvc.lock` names, as far as the DVC cache has them."""

    cache: Path
    hashes: dict[Path, str]

    @classmethod
    def versions(cls, root: Path) -> Iterator[Tracked]:
        """Those of the working tree, then of the branch that is being merged, then of the branches that were committed to last.

        So after a merge the cells of both sides are found, whichever side's `dvc.lock` was taken.
        """
        cache = cache_root(root) / "files" / "md5"
        for text in _locks(root):
            with contextlib.suppress(ConfigError):  # an unfinished merge
                lock = parse_yaml(text.encode(), "dvc.lock") or {}
                outs = [out for stage in lock.get("stages", {}).values() for out in stage.get("outs", [])]
                yield cls(cache, {Path(out["path"]): out["md5"] for out in outs if "md5" in out})

    def object(self, md5: str) -> Path | None:
        """The cached file of that hash, if it is there and is not damaged."""
        path = self.cache / md5[:2] / md5[2:]
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            return path if hashlib.file_digest(stream, "md5").hexdigest() == md5.removesuffix(".dir") else None

    def file(self, output: Path) -> Path | None:
        """The cached file of a tracked output."""
        md5 = self.hashes.get(output)
        return None if md5 is None else self.object(md5)

    def is_checked_out(self, root: Path, target: Path) -> bool:
        """Whether a tracked output, or a path below one, is in the working tree as `dvc.lock` has it and in the DVC cache.

        A read-only link to the cached file is believed, as DVC does; any other file is hashed.
        """
        below = self._files_below(target)
        if below is None:
            return False
        there = sum(path.is_file() for path in (root / target).rglob("*")) if (root / target).is_dir() else 1
        return len(below) == there and all(self._is_same(root / path, md5) for path, md5 in below.items())

    def _files_below(self, target: Path) -> dict[Path, str] | None:
        """The tracked files at or below a path, with their hashes; None where there is no telling."""
        output = next((path for path in (target, *target.parents) if path in self.hashes), None)
        if output is None:
            return None
        if not self.hashes[output].endswith(".dir"):
            return {output: self.hashes[output]}
        if output not in self._listings:
            self._listings[output] = self._by_entry(output)
        entries = self._listings[output]
        if entries is None:
            return None
        some = entries.values() if target == output else [entries.get(target.relative_to(output).parts[0], {})]
        return {path: md5 for files in some for path, md5 in files.items() if path.is_relative_to(target)}

    @cached_property
    def _listings(self) -> dict[Path, dict[str, dict[Path, str]] | None]:
        """Of the directories asked for, read once: with 500 cells a listing has thousands of lines."""
        return {}

    def _by_entry(self, output: Path) -> dict[str, dict[Path, str]] | None:
        """The files of a tracked directory with their hashes, by what lies in it."""
        listing = self.json(output)
        if listing is None:
            return None
        entries: dict[str, dict[Path, str]] = {}
        for file in listing:
            entries.setdefault(file["relpath"].partition("/")[0], {})[output / file["relpath"]] = file["md5"]
        return entries

    def _is_same(self, path: Path, md5: str) -> bool:
        try:
            stat, cached = path.stat(), (self.cache / md5[:2] / md5[2:]).stat()
        except OSError:
            return False
        if os.path.samestat(stat, cached) and not stat.st_mode & 0o222:
            return True
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest() == md5

    def json(self, output: Path) -> Any:
        """The content of a tracked JSON file or of a directory's listing."""
        path = self.file(output)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def _locks(root: Path) -> Iterator[str]:
    """The texts of `dvc.lock`, each once."""
    with contextlib.suppress(FileNotFoundError):
        yield (root / "dvc.lock").read_text(encoding="utf-8")
    newest = ["for-each-ref", "--sort=-committerdate", f"--count={BRANCHES}", "--format=%(objectname)", "refs/heads", "refs/remotes"]
    commits = ["MERGE_HEAD", *_git(root, *newest).split()]
    yield from filter(None, dict.fromkeys(_git(root, "show", f"{commit}:./dvc.lock") for commit in dict.fromkeys(commits)))


def _git(root: Path, *words: str) -> str:
    """What git answers; empty where it refuses, or is not here."""
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own words
        return done.stdout if done.returncode == 0 else ""
    return ""


def share_of(output: Path | Table, tracked: Tracked) -> Share | None:
    """How a cell's share of an output is taken from the DVC cache; None where it does not have that output."""
    return _table_share(output, tracked) if isinstance(output, Table) else _directory_share(output, tracked)


def _directory_share(output: Path, tracked: Tracked) -> Share | None:
    listing = tracked.json(output)
    if listing is None:
        return None
    owned: dict[str, list[tuple[str, str]]] = {}
    for entry in listing:
        owned.setdefault(owner_of(entry["relpath"]), []).append((entry["relpath"], entry["md5"]))

    def put(specimen_id: int, directory: Path) -> bool:
        for relpath, md5 in owned.get(str(specimen_id), []):
            source = tracked.object(md5)
            if source is None:
                return False
            link(source, directory / output / relpath)
        return True

    return put


def _table_share(table: Table, tracked: Tracked) -> Share | None:
    import pandas as pd

    path = tracked.file(table.path)
    if path is None:
        return None
    rows = dict(iter(_read_cached(table, path).groupby("specimen_id")))

    def put(specimen_id: int, directory: Path) -> bool:
        frame = rows.get(specimen_id)
        if frame is not None:
            write_table(table, pd.DataFrame(frame), directory)
        return True

    return put


def _read_cached(table: Table, path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        stand_in = Path(folder) / table.path
        stand_in.parent.mkdir(parents=True)
        stand_in.symlink_to(path)
        return read_table(table, Path(folder))
