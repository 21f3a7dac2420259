"""The house has floors: imports between packages go downwards only, along the edges drawn here."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import brightfield

PACKAGE = Path(brightfield.__file__).parent

STAGES = ("query", "download", "align", "rasterize", "split", "manifest", "report")
CELLS_ON_DISK = {"core", "config", "run", "volumes", "built"}
EDGES: dict[str, set[str]] = {
    "core": set(),
    "config": {"core"},
    "run": {"core", "config"},
    "raster": {"core"},
    "volumes": {"core"},
    "splitting": {"core", "config"},
    "sampling": {"core", "config"},
    "built": {"core", "config", "volumes"},
    "sources": {"core", "config", "volumes"},
    "stages.query": {"core", "config", "run", "sources"},
    "stages.download": CELLS_ON_DISK | {"sources"},
    "stages.align": {"core", "config", "run", "built"},
    "stages.rasterize": CELLS_ON_DISK | {"raster"},
    "stages.split": {"core", "config", "splitting"},
    "stages.manifest": CELLS_ON_DISK | {"raster", "sampling", "splitting"},
    "stages.report": CELLS_ON_DISK | {"sampling", "splitting"},
    # Modules beside the packages: the public face, and the commands that are no stage.
    "errors": {"core"},
    "skeleton": {"core"},
    "inspection": {"core", "config", "sources", "volumes"},
    "space": {"core"},
    "dataset": {"core", "volumes"},
    "evaluation": {"core", "raster", "volumes", "dataset"},
    "viewing": {"core", "volumes", "evaluation"},
    "learn": {"core", "raster", "volumes"},
    "torch": {"core", "learn"},
    "planning": {"core", "config", "stages.query", "stages.download"},
    "versions": {"core", "config", "run", "volumes", "stages.manifest", "stages.report"},
    "testing": {"core", "config", "volumes", "built", "sources", "splitting", "stages.rasterize", "stages.manifest"},
    "arguments": set(),
    "cli": {
        "arguments",
        "core",
        "config",
        "run",
        "sources",
        "inspection",
        "planning",
        "versions",
        "evaluation",
        "viewing",
        "stages.query",
        "stages.split",
        "stages.manifest",
        "stages.report",
    },
}
"""Which package may import which."""


def _modules() -> dict[str, Path]:
    """Dotted names below the package ("core.space") to files; a package's own `__init__` is not among them."""
    files = (p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in files}


def _imports_in(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Those of a file, also inside functions; imports for type checking count too."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def _imported(module: str) -> set[str]:
    """The modules of the package that one of them imports."""
    names: set[str] = set()
    for node in IMPORTS[module]:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "brightfield":
            tail = node.module.split(".")[1:]
            names |= {".".join([*tail, alias.name]) for alias in node.names} | ({".".join(tail)} if tail else set())
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("brightfield.") for alias in node.names if alias.name.startswith("brightfield.")}
    return names & set(MODULES)


def _package(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "stages" else parts[0]


MODULES = _modules()
IMPORTS = {name: _imports_in(path) for name, path in MODULES.items()}
GRAPH = {name: _imported(name) for name in MODULES}


def test_no_two_modules_import_each_other_even_through_others() -> None:
    order = list(graphlib.TopologicalSorter(GRAPH).static_order())  # raises CycleError, which names the cycle
    assert set(order) == set(GRAPH)


def test_the_edges_drawn_here_have_no_cycle_and_no_stage_leads_to_another() -> None:
    assert len(list(graphlib.TopologicalSorter(EDGES).static_order())) == len(EDGES)
    assert not [(a, b) for a in EDGES for b in EDGES[a] if a.startswith("stages.") and b.startswith("stages.")]


@pytest.mark.parametrize("package", sorted({_package(name) for name in GRAPH}))
def test_a_package_imports_along_the_edges_and_along_no_other(package: str) -> None:
    found = {(name, other) for name in GRAPH if _package(name) == package for other in GRAPH[name] if _package(other) != package}
    assert not {(name, other) for name, other in found if _package(other) not in EDGES[package]}
    assert {_package(other) for _, other in found} == EDGES[package], "an edge that nothing uses: take it out"


def test_every_stage_has_its_package() -> None:
    assert sorted(name.split(".")[1] for name in GRAPH if name.startswith("stages.") and name.endswith(".stage")) == sorted(STAGES)


def test_no_module_hides_a_public_name() -> None:
    public = set(brightfield.__all__)  # importing a module of that name would replace the name in the package
    assert not public & {name.split(".")[0] for name in MODULES}
    assert all(getattr(brightfield, name) is not None for name in public)


def test_no_file_is_too_long_to_read() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: n for name, n in lengths.items() if n > 400}


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("zarr", {"volumes.volume", "volumes.foreign", "volumes.ranges", "volumes.remote", "sources.folder.zarr_stacks"}),
        ("allensdk", {"sources.allen.service"}),
        ("dask", {"run.clusters"}),
        ("distributed", {"run.clusters"}),
        ("neuroglancer", {"viewing.layers", "viewing.server"}),
        ("napari", {"viewing.in_napari"}),
        ("hypothesis", {"testing.grids", "testing.skeletons"}),
    ],
)
def test_one_module_knows_each_library(library: str, owner: set[str]) -> None:
    users = set()
    for name, nodes in IMPORTS.items():
        for node in nodes:
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if any(n.split(".")[0] == library for n in imported):
                users.add(name)
    assert users <= owner
