"""The dataset sent to the team remote; and a remote that lost or spoilt objects mended from this clone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from brightfield.core.errors import TransferError
from brightfield.versions.team import fault, team_repo

THREADS = 8
"""Objects read from the remote at once."""


def push(root: Path, *, repair: bool = False) -> str:
    """Send what the remote lacks of the version in the working tree; returns what was done, in words.

    repair: DVC believes that what is there is right, and that a directory's files are where its listing is. Read every object back, and
    send again those that are absent or damaged. Raises TransferError where some cannot be mended from this clone, with the others mended.
    """
    with team_repo(root) as repo:
        mended, lost = _repair(repo) if repair else ([], [])
        sent = repo.push()
        said = f"{sent} object(s) sent" if not repair else f"{len(mended)} object(s) mended, {sent} more sent"
        if lost:
            rows = "\n".join(f"  {line}" for line in lost)
            remedy = "run `brightfield push --repair` in a clone that has them"
            raise TransferError(f"{said}; this clone does not have these either:\n{rows}\n{remedy}")
    return "\n".join([said, *(f"  {line}" for line in mended)])


def _repair(repo: Any) -> tuple[list[str], list[str]]:
    """Send again what the remote lacks or has damaged, and say which; and what is not here to send."""
    from dvc_data.hashfile.transfer import transfer

    remote, cache = repo.cloud.get_remote_odb(command="push"), repo.cache.local
    infos = list(_objects(repo, cache))
    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(lambda info: fault(remote.fs, remote.oid_to_path(info.value), info.value), infos))
    broken = {info: f"{info.value}: {what}" for info, what in zip(infos, faults, strict=True) if what}
    mendable = {info for info in broken if not fault(cache.fs, cache.oid_to_path(info.value), info.value)}
    for info in mendable:
        if remote.exists(info.value):  # what is there is taken for good
            remote.fs.remove(remote.oid_to_path(info.value))
    if mendable:
        transfer(cache, remote, mendable)  # not by DVC's own note of what the remote has
    return [broken[info] for info in broken if info in mendable], [broken[info] for info in broken if info not in mendable]


def _objects(repo: Any, cache: Any) -> Iterator[Any]:
    """Every object that the version in the working tree names; of directories the listing comes last, as it vouches for the files."""
    from dvc_data.hashfile.tree import Tree

    seen = set()
    for infos in repo.used_objs(push=True).values():
        for info in sorted(infos, key=lambda info: str(info.value)):
            inner = [found for _, _, found in Tree.load(cache, info)] if info.isdir else []
            for one in (*inner, info):
                if one.value not in seen:
                    seen.add(one.value)
                    yield one
