"""The house has floors: imports go downwards only."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import brightfield

PACKAGE = Path(brightfield.__file__).parent
GROUND = {"errors", "schema"}
TOP = {"cli", "stages"}


def _modules() -> dict[str, Path]:
    """Map dotted names below the package ("space", "stages.query") to files."""
    files = (p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in files}


def _imports(path: Path) -> set[str]:
    """The brightfield modules that a file imports, also inside functions; imports for type checking count too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "brightfield":
            tail = node.module.split(".")[1:]
            names |= {".".join([*tail, alias.name]) for alias in node.names} | ({".".join(tail)} if tail else set())
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("brightfield.") for alias in node.names if alias.name.startswith("brightfield.")}
    return names & set(_modules())


GRAPH = {name: _imports(path) for name, path in _modules().items()}


def test_no_two_modules_import_each_other_even_through_others() -> None:
    order = list(graphlib.TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the cycle
    assert set(order) == set(GRAPH)


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_only_the_command_line_and_stages_know_stages(name: str) -> None:
    upward = {imported for imported in GRAPH[name] if imported.split(".")[0] in TOP}
    assert not upward or name.split(".")[0] in TOP
    assert not (name.startswith("stages.") and "cli" in upward)


def test_no_module_hides_a_public_function() -> None:
    public = {"open_cell", "manifest"}  # importing a module of that name would replace the function in the package
    assert public <= set(brightfield.__all__)
    assert not public & set(_modules())


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_floor_stands_on_nothing(name: str) -> None:
    assert GRAPH[name] <= GROUND


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("zarr", {"volume", "ranges", "remote", "stacks"}),
        ("allensdk", {"allen"}),
        ("dask", {"compute"}),
        ("distributed", {"compute"}),
        ("hypothesis", {"testing"}),
    ],
)
def test_one_module_knows_each_library(library: str, owner: set[str]) -> None:
    users = set()
    for name, path in _modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            imported = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if any(n.split(".")[0] == library for n in imported):
                users.add(name)
    assert users <= owner
