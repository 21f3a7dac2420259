"""Fixtures that every test module may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

# Kernels compile at their first call, and CI machines stall: the time of one example says nothing.
settings.register_profile("brightfield", deadline=None)
settings.load_profile("brightfield")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real Allen files; it is not ours to ship, so tests skip where it is absent."""
    folder = Path(os.environ.get("BRIGHTFIELD_SHARED") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "provenance.csv").is_file():
        pytest.skip(f"the real Allen files are not at {folder}; set BRIGHTFIELD_SHARED to the folder that holds provenance.csv")
    return folder
