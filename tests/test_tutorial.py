"""The tutorial's commands, as they stand on the page, in a fresh clone; PyTorch's part is run by tests/learn."""

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
MAKE = "make() { [ $1 != repro ] || { dvc repro && git commit -q -a -m small; }; }"
"""`make repro` without making an environment (the small dataset stands for the one that the repository comes with), `make learn` without
PyTorch."""

TRAINED = """import numpy as np
import brightfield
from pathlib import Path
Path("predictions").mkdir()
for cell in brightfield.cells("val"):
    np.save(f"predictions/{cell.specimen_id}.npy", np.isin(cell.labels.read(), (1, 2, 3, 4)))
"""
"""What stands for the trained network: one that has learnt the labels by heart."""


def script() -> str:
    """The blocks of the page in their order; Python ones are given to Python, but for the training."""
    text = PAGE.read_text(encoding="utf-8")
    commands = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        assert language in ("sh", "python")
        training = "import torch" in block
        program = TRAINED if training else block
        name = "train.py" if training else "-"
        commands += [block] if language == "sh" else [f"{'cat >' if training else 'python'} {name} <<'END'\n{program}END\n"]
    return "\n".join(commands)


def prepared(text: str) -> str:
    """The script with this repository for the one on the web, the small cells, and no environments of its own."""
    small = f"mkdir -p conf/local .venv/bin .venv-learn/bin && cat > conf/local/default.yaml <<'END'\n{SETTINGS}END\n"
    small += "touch .venv/bin/activate && printf '#!/bin/sh\\nexec %s \"$@\"\\n' $(command -v python) > .venv-learn/bin/python\n"
    small += "chmod +x .venv-learn/bin/python && brightfield config\n"
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
