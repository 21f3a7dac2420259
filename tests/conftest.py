"""Fixtures that every test module may use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from warm import MARK, with_warm_commands

REPOSITORY = Path(__file__).resolve().parent.parent

# Kernels compile at their first call, and CI machines stall: the time of one example says nothing.
settings.register_profile("brightfield", deadline=None)
settings.load_profile("brightfield")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests come first, those with most of them before all: no worker ends alone with the longest one."""
    slow = Counter(item.location[0] for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.location[0]])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Allen files; it is not ours to ship, so tests skip where it is absent."""
    folder = Path(os.environ.get("BRIGHTFIELD_SHARED") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "provenance.csv").is_file():
        pytest.skip(f"the real Allen files are not at {folder}; set BRIGHTFIELD_SHARED to the folder that holds provenance.csv")
    return folder


@pytest.fixture(scope="session")
def warm_commands() -> Iterator[Path]:
    """The folder of `brightfield` and `dvc` that start at once; a short name, as sockets want one."""
    with tempfile.TemporaryDirectory() as folder, with_warm_commands(Path(folder)) as place:
        yield place


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory, warm_commands: Path) -> Iterator[None]:
    """Nothing of the user's git, SSH and DVC settings, nothing left in their home; the commands of this environment, warm."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
            patch.setenv(name, str(home / name.lower()))
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "A")
            patch.setenv(f"GIT_{role}_EMAIL", "a@b")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv(MARK, str(warm_commands))
        patch.setenv("PATH", os.pathsep.join([str(warm_commands), str(Path(sys.executable).parent), os.environ["PATH"]]))
        yield
