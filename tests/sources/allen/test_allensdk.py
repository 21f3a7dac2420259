"""AllenSDK in this environment: it can be imported by those who know nothing of us, and docs/how-to/allensdk.md does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from brightfield.cli import main
from brightfield.sources.mirror.catalog import FolderCatalog, MemoryCatalog
from brightfield.sources.mirror.records import CELLS_MODEL, tables_of
from brightfield.sources.mirror.server import serve
from brightfield.testing.source import small_cell

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "how-to" / "allensdk.md"
N_CELLS, N_TRACED, N_MICE = {"2020-03": 2331, "2023": 2333}, {"2020-03": 637, "2023": 667}, {"2020-03": 485, "2023": 509}


def test_the_environment_imports_allensdk_without_our_help() -> None:
    lines = (
        "import sys",
        "assert 'numpy' not in sys.modules",  # and it costs nothing until then
        "from allensdk.core.cell_types_cache import CellTypesCache",
        "from allensdk.api.queries.image_download_api import ImageDownloadApi",
        "assert not any(name.startswith('brightfield.') for name in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + "\nif the installation is an old one: make env"


def _catalog(folder: Path, pictured: int) -> tuple[MemoryCatalog, list[int]]:
    """The real cells table, with invented stacks for the first `pictured` reconstructed mice, of the first a failed one; and all mice."""
    cells = FolderCatalog(folder).tables[CELLS_MODEL]
    mice = [row["specimen__id"] for row in cells if row["nr__reconstruction_type"] and row["donor__species"] == "Mus musculus"]
    taken = [small_cell(i) for i in mice[:pictured]]
    failed = replace(taken[0].stack, planes=tuple(replace(plane, usable=False) for plane in taken[0].stack.planes))  # type: ignore[type-var, union-attr]
    made = tables_of([replace(taken[0], stack=failed), *taken[1:]])
    return MemoryCatalog({**made, CELLS_MODEL: cells}), mice


@pytest.mark.real
@pytest.mark.parametrize("year", ["2020-03", "2023"])
def test_the_page_finds_the_published_numbers_and_why_ours_are_fewer(
    year: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"cell_types_specimen_details_{year}.csv"
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / name).symlink_to((shared_data / "cells" / name).resolve())
    catalog, mice = _catalog(tmp_path / "tables", N_MICE[year] - 6)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with serve(catalog) as mirror:
        for language, block in blocks:
            if language == "python":
                exec(block.replace('manifest.json"', f'manifest.json", base_uri="{mirror.base_url}"'), names)
            else:
                for command in block.replace("accept_terms=true", f"accept_terms=true source.base_url={mirror.base_url}").splitlines():
                    assert main(command.split()[1:]) == 0
    out = capsys.readouterr().out
    assert f"{N_TRACED[year]} reconstructed cells, {N_MICE[year]} of them of mice" in out
    assert f"query: {N_MICE[year] - 7} of {N_CELLS[year]} cells selected" in out
    assert names["ours"].loc[~names["ours"]["selected"], "reason"].value_counts().to_dict() == {
        "no image stack": 6,
        "all planes of the stack failed": 1,
    }
    assert set(names["ours"].index) == set(mice)
    assert pd.read_parquet(tmp_path / "data" / "cells.parquet")["selected"].sum() == N_MICE[year] - 7
    row = next(
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| {'early 2020' if year == '2020-03' else year}")
    )
    assert [int(word) for word in re.findall(r"\b\d+\b", row)[1:]] == [N_CELLS[year], N_TRACED[year], N_MICE[year]]
