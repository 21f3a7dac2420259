"""The tutorial's commands, as they stand on the page, in a fresh clone; `make baseline` itself is run by tests/learn."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from repositories import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_home")]

PAGE = REPOSITORY / "docs" / "tutorial.md"
CELLS = (900000003, 900000010)
"""A small cell of train, and one of val: all of them take minutes."""

SETTINGS = f"""# @package _global_
source: {{specimen_ids: {list(CELLS)}}}
image: {{level: 3, z_step: 4}}
patches: {{per_cell: 20}}
compute: {{workers: 1}}
"""
MAKE = """make() {
  case $1 in
    repro) dvc repro && git commit -q -a -m small ;;
    baseline) python by_heart.py ;;
  esac
}"""
"""Without making environments: the small dataset stands for the one of the repository, and what knows the labels for the network."""

BY_HEART = """import numpy as np
import brightfield
from pathlib import Path
Path("baseline/predictions").mkdir()
for cell in brightfield.cells("val"):
    np.save(f"baseline/predictions/{cell.specimen_id}.npy", np.isin(cell.labels.read(), (1, 2, 3, 4)))
"""


def script() -> str:
    """The blocks of the page in their order; Python ones are given to Python."""
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return "\n".join(block if language == "sh" else f"python - <<'END'\n{block}END\n" for language, block in blocks)


def prepared(text: str) -> str:
    """The script with this repository for the one on the web, the small cells, and no environments of its own."""
    small = (
        f"mkdir -p conf/local .venv/bin && cat > conf/local/default.yaml <<'END'\n{SETTINGS}END\ncat > by_heart.py <<'END'\n{BY_HEART}END\n"
    )
    small += "touch .venv/bin/activate && brightfield config\n"
    text = text.replace(
        "https://github.com/brightfield/brightfield\ncd brightfield\n", f"{REPOSITORY} brightfield\ncd brightfield\n{small}"
    )
    assert small in text
    return "\n".join(["set -eux", MAKE, text])


def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", prepared(script())], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False, timeout=570
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-4000:]
    assert "would tag v1.0.0" in told
    assert "tagged v1.0.0" in told
    scores = re.findall(r"neurite +(1\.0+ +1\.0+ +1\.0+)", done.stdout)
    assert len(scores) == 2, told[-4000:]  # here, and at the teammate's
    pulled = {path.name for path in (tmp_path / "teammate" / "data" / "images").iterdir()}
    assert pulled == {"900000010.zarr"}
