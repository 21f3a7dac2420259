"""A release: which number it deserves, the data changelog, the tag."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.core.codes import Severity
from brightfield.core.errors import CheckError
from brightfield.core.layout import CHANGELOG_FILE
from brightfield.versions.diff import Bump, diff, git_output, manifest_at, numbers_of

if TYPE_CHECKING:
    pass


FIRST_VERSION = "v1.0.0"


@dataclass(frozen=True, slots=True)
class Release:
    """The next version, why it has this number, and whether it was made."""

    version: str
    notes: str
    done: bool

    def __str__(self) -> str:
        if self.done:
            return f"{self.notes}\ntagged {self.version}; now run: dvc push && git push --follow-tags"
        return f"{self.notes}\nwould tag {self.version}; run with --yes to do it"


def release(root: Path, *, dry_run: bool = False) -> Release:
    """Prove the dataset, propose the next number, write the data changelog, commit and tag.

    Raises ConfigError for a stale params.yaml, CheckError where git, DVC or the checks find something.
    """
    _require_releasable(root)
    last = _last_version(root)
    if last is None:
        version, notes = FIRST_VERSION, _first_notes(root)
    else:
        difference = diff(root, last)
        version, notes = next_version(last, difference.bump), difference.as_text()
    if not dry_run:
        _write_changelog(root, version, notes)
        _rebuild_readers(root)
        git_output(root, "add", "--update", ".")
        git_output(root, "add", str(CHANGELOG_FILE))
        git_output(root, "commit", "-q", "-m", f"Data {version}")
        git_output(root, "tag", "-a", version, "-m", f"Data {version}")
    return Release(version, notes, done=not dry_run)


def next_version(last: str, bump: Bump) -> str:
    """`v1.2.3` and MINOR give `v1.3.0`."""
    major, minor, patch = (int(number) for number in last.removeprefix("v").split("."))
    return {Bump.MAJOR: f"v{major + 1}.0.0", Bump.MINOR: f"v{major}.{minor + 1}.0", Bump.PATCH: f"v{major}.{minor}.{patch + 1}"}[bump]


def _require_releasable(root: Path) -> None:
    from brightfield.config import compose as composition
    from brightfield.stages.manifest import checks

    composition.require_fresh(root)
    dirty = git_output(root, "status", "--porcelain", "--untracked-files=no")
    if dirty:
        raise CheckError(f"the working tree has changes that no commit holds; commit them first:\n{dirty}")
    behind = _dvc_status(root)
    if behind:
        raise CheckError(f"the data is not what dvc.lock says: {', '.join(behind)}; run `dvc repro`, then commit dvc.lock")
    errors = [finding for finding in checks.run_checks(root) if finding.severity == Severity.ERROR]
    if errors:
        raise CheckError("the dataset does not pass its checks:\n" + "\n".join(f"  {f.check}: {f.message}" for f in errors))


def _dvc_status(root: Path) -> list[str]:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return sorted(repo.status())


def _rebuild_readers(root: Path) -> None:
    """Run the stages that read the changelog again: the report shows its newest entry."""
    if behind := _dvc_status(root):
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            repo.reproduce(behind)


def _last_version(root: Path) -> str | None:
    tags = [tag for tag in git_output(root, "tag", "--merged", "HEAD").splitlines() if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
    return max(tags, key=lambda tag: [int(number) for number in tag[1:].split(".")], default=None)


def _first_notes(root: Path) -> str:
    manifest = manifest_at(root, None)
    numbers = numbers_of(manifest, manifest)
    return "\n".join(["first version", *(f"  {name}: {new:g}" for name, (_, new) in numbers.items())])


def _write_changelog(root: Path, version: str, notes: str) -> None:
    title = (
        "# Data changelog\n\nPATCH: same data, other serialisation. MINOR: cells or columns added. MAJOR: cells edited, removed or moved.\n"
    )
    path = root / CHANGELOG_FILE
    earlier = path.read_text(encoding="utf-8").removeprefix(title) if path.exists() else ""
    path.write_text(f"{title}\n## {version}\n\n```\n{notes}\n```\n{earlier}", encoding="utf-8")
