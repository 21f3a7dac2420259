from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from brightfield.run import algorithm
from brightfield.run.algorithm import algorithm_digest, module_closure, stage_folders

MAIN = '''"""A module."""
from __future__ import annotations
from typing import TYPE_CHECKING
from toy.low import helper, SIZE
from toy import other
if TYPE_CHECKING:
    from toy.types import Thing

WIDTH = SIZE + 1

def compute(thing: Thing) -> int:
    """Compute."""
    return helper(WIDTH) + other.extra()

def unrelated():
    return 1
'''
LOW = "from toy.deep import base\nSIZE = 3\nUNUSED = 4\n\ndef helper(n):\n    return base() + n\n\ndef idle():\n    return 0\n"
DEEP = "def base():\n    return 1\n"
OTHER = "def extra():\n    from toy.lazy import late\n    return late()\n"
LAZY = "def late():\n    return 5\n"


class Toy:
    def __init__(self, root: Path) -> None:
        self.root = root / "toy"
        self.root.mkdir()
        for name, text in {"__init__": "", "main": MAIN, "low": LOW, "deep": DEEP, "other": OTHER, "lazy": LAZY}.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.root / f"{name}.py").write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / f"{name}.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def digest(self, notes: Path | None = None) -> str:
        algorithm._module.cache_clear()
        algorithm_digest.cache_clear()
        return algorithm_digest(importlib.import_module("toy.main").compute, notes)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setattr(algorithm, "PACKAGE", "toy")
    monkeypatch.syspath_prepend(tmp_path)
    yield Toy(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]
    algorithm._module.cache_clear()
    module_closure.cache_clear()


def test_another_process_parses_only_what_was_edited_and_finds_the_same(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, parsed = tmp_path / "work" / "code.json", list[str]()
    original = algorithm._parsed
    monkeypatch.setattr(algorithm, "_parsed", lambda name, tree: (parsed.append(name), original(name, tree))[1])

    def by_another_process() -> tuple[str, set[str]]:
        parsed.clear()
        monkeypatch.setattr(algorithm, "_notes", algorithm._Notes())
        return toy.digest(notes), set(parsed)

    first, all_of_them = by_another_process()
    assert all_of_them == {"toy.main", "toy.low", "toy.deep", "toy.other", "toy.lazy"}
    assert by_another_process() == (first, set())
    toy.edit("deep", "return 1", "return 1  # one")
    assert by_another_process() == (first, {"toy.deep"})
    toy.edit("deep", "return 1", "return 2")
    edited, _ = by_another_process()
    assert edited != first
    for damage in ("", "[]", '{"by": 3}', notes.read_text()[:-20], notes.read_text().replace('"by": "', '"by": "another')):
        notes.write_text(damage)
        assert by_another_process() == (edited, all_of_them)
    toy.edit("deep", "return 2", "return 1")
    assert by_another_process()[0] == first


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("main", '"""Compute."""', '"""Compute quickly."""'),
        ("main", "WIDTH = SIZE + 1", "WIDTH  =  (SIZE + 1)  # wide"),
        ("main", "thing: Thing", "thing: object"),
        ("main", "return 1", "return 2"),
        ("low", "UNUSED = 4", "UNUSED = 5"),
        ("low", "return 0", "return 1"),
    ],
)
def test_what_does_not_compute_does_not_count(toy: Toy, module: str, old: str, new: str) -> None:
    before = toy.digest()
    toy.edit(module, old, new)
    assert toy.digest() == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("main", "helper(WIDTH)", "helper(WIDTH + 1)"),
        ("main", "SIZE + 1", "SIZE + 2"),
        ("low", "SIZE = 3", "SIZE = 4"),
        ("low", "base() + n", "base() - n"),
        ("deep", "return 1", "return 2"),
        ("other", "return late()", "return -late()"),
        ("lazy", "return 5", "return 6"),
    ],
)
def test_what_computes_counts_however_far_away(toy: Toy, module: str, old: str, new: str) -> None:
    before = toy.digest()
    toy.edit(module, old, new)
    assert toy.digest() != before


def test_the_closure_holds_lazy_imports_but_not_those_for_type_checkers(toy: Toy) -> None:
    assert module_closure("toy.main") == ("toy.deep", "toy.lazy", "toy.low", "toy.main", "toy.other")


def test_fields_that_only_some_python_versions_have_do_not_count() -> None:
    function = ast.parse("def f(x): return x").body[0]
    with_empty = ast.parse("def f(x): return x").body[0]
    with_empty.type_params = []  # type: ignore[attr-defined]
    with_empty.type_comment = None  # type: ignore[attr-defined]
    assert algorithm._canonical(function) == algorithm._canonical(with_empty)


def test_the_package_itself_can_be_digested() -> None:
    from brightfield.raster.voxels import rasterize

    assert len(algorithm_digest(rasterize)) == 64
    assert "brightfield.core.codes" in module_closure("brightfield.raster.voxels")


def test_the_folders_of_a_stage_are_what_computes_and_not_what_runs_it() -> None:
    folders = stage_folders("rasterize")
    assert {"src/brightfield/stages/rasterize", "src/brightfield/raster", "src/brightfield/core"} <= set(folders)
    assert not {"src/brightfield/run", "src/brightfield/config", "src/brightfield/stages"} & set(folders)
