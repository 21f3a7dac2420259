"""Which code computes a result: a digest of the definitions that a function can reach, and the folders that a stage computes with.

The digest decides which finished cells are still valid, so it is drawn finely: it covers the function, the definitions of this package
that it names, and theirs in turn; a new column of the manifest does not touch the digest of the rasterizer. Comments, docstrings, type
annotations of functions and layout do not count. `stage_folders` is the coarse view, whole packages, for the `deps` of `dvc.yaml`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from brightfield.core.errors import FileError
from brightfield.core.files import write_text

PACKAGE = "brightfield"
PLUMBING = tuple(f"{PACKAGE}.{name}" for name in ("run", "config", "core.errors", "core.files", "core.tables", "core.version"))
"""Packages and modules that move, configure or report work: they decide where results go, never what they are."""


@cache
def algorithm_digest(function: Callable[..., Any], notes: Path | None = None) -> str:
    """sha256 over the abstract syntax of `function` and every definition of the package it reaches, the same on any supported Python.

    notes: a file that keeps what was found in each module, so that the next process parses only those that were edited since.
    """
    if notes is not None:
        _notes.recall(notes)
    seen: set[tuple[str, str]] = set()
    queue = [(function.__module__, function.__qualname__.split(".")[0])]
    while queue:
        module, name = queue.pop()
        found = _locate(module, name)
        if found is None or found in seen or (seen and is_plumbing(found[0])):
            continue
        seen.add(found)
        queue += _module(found[0]).references(found[1])
    if notes is not None:
        _notes.keep(notes)
    text = "\n".join(f"{module}.{name} {_module(module).definitions[name][0]}" for module, name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def module_closure(module: str) -> tuple[str, ...]:
    """`module` and all modules of the package that it imports, directly or not, sorted."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += _module(name).imported_modules
    return tuple(sorted(seen))


def is_plumbing(module: str) -> bool:
    """Whether a module is, or lies in, one of `PLUMBING`."""
    return any(f"{module}.".startswith(f"{name}.") for name in PLUMBING)


def stage_folders(stage: str) -> tuple[str, ...]:
    """The folders that `dvc.yaml` must name as dependencies of a stage, relative to the repository, sorted.

    Those of all modules that the stage imports, directly or not, save `run` and `config`: how work is run and configured changes no result.
    """
    modules = [module for module in module_closure(f"{PACKAGE}.stages.{stage}.stage") if module.count(".") > 1]
    folders = {f"src/{'/'.join(_package_of(module))}" for module in modules}
    return tuple(sorted(folders - {f"src/{PACKAGE}/run", f"src/{PACKAGE}/config"}))


def _package_of(module: str) -> list[str]:
    parts = module.split(".")
    return parts[: 3 if parts[1] == "stages" else 2]


def module_file(module: str) -> Path:
    """The source file of a module, without importing it, nor the packages that it is in. Raises ModuleNotFoundError."""
    package, *names = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    place = Path(spec.origin).parent.joinpath(*names)
    candidates = (place / "__init__.py", place.with_name(f"{place.name}.py")) if names else (Path(spec.origin),)
    for file in candidates:
        if file.is_file():
            return file
    raise ModuleNotFoundError(module)


# ------------------------------------------------------------------------------------------------------------ one module


@dataclass(frozen=True)
class _Module:
    """What is known of a module: `entry` is the result of `_parsed`."""

    name: str
    entry: dict[str, Any]

    @property
    def definitions(self) -> dict[str, tuple[str, list[tuple[str, str | None]]]]:
        """Top-level definitions by name: the digest of their syntax, and the names in it."""
        found: dict[str, tuple[str, list[tuple[str, str | None]]]] = self.entry["definitions"]
        return found

    @cached_property
    def imports(self) -> dict[str, tuple[str, str | None]]:
        """Where names of the package come from: local name -> (module, name in it, or None for the module itself)."""
        found: dict[str, tuple[str, str | None]] = {}
        for local, source, inner in self.entry["imports"]:
            is_module = inner is not None and _is_package(source) and _exists(f"{source}.{inner}")
            found[local] = (f"{source}.{inner}", None) if is_module else (source, inner)
        return found

    @property
    def imported_modules(self) -> list[str]:
        return sorted({module for module, _ in self.imports.values()} - {self.name})

    def references(self, name: str) -> Iterator[tuple[str, str]]:
        """Definitions of the package that definition `name` names, as (module, name)."""
        for first, attribute in self.definitions[name][1]:
            if attribute is None:
                yield self.name, first
                continue
            module, inner = self.imports.get(first, (None, None))
            if module is not None and inner is None:
                yield module, attribute


def _locate(module: str, name: str) -> tuple[str, str] | None:
    """The module that defines `name` as seen from `module`, following re-exports; None for names from elsewhere."""
    while True:
        known = _module(module)
        if name in known.definitions:
            return module, name
        origin, inner = known.imports.get(name, (None, None))
        if origin is None or inner is None:
            return None
        module, name = origin, inner


@cache
def _module(name: str) -> _Module:
    return _Module(name, _notes.of(name, module_file(name).read_bytes()))


class _Notes:
    """What was found in modules, each for as long as its text is the same; `recall` and `keep` carry it from one process to the next."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Any]] = {}
        self._has_news = False

    def of(self, name: str, text: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(text).hexdigest()
        if self._entries.get(name, {}).get("sha256") != digest:
            self._entries[name] = {"sha256": digest, **_parsed(name, ast.parse(text))}
            self._has_news = True
        return self._entries[name]

    def recall(self, file: Path) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, torn, of another version
            told = json.loads(file.read_bytes())
            if told["by"] == _own_digest():
                self._entries = told["modules"] | self._entries

    def keep(self, file: Path) -> None:
        if self._has_news:
            with contextlib.suppress(FileError):  # a full disk, or another clone that keeps the same just now
                write_text(file, json.dumps({"by": _own_digest(), "modules": self._entries}))
            self._has_news = False


_notes = _Notes()


@cache
def _own_digest() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _parsed(name: str, tree: ast.Module) -> dict[str, Any]:
    """Of every top-level definition the digest of its syntax and the names in it; and the imports from the package."""
    statements: dict[str, list[ast.stmt]] = {}
    loose = []
    for statement in tree.body:
        names = list(_bound_names(statement))
        for bound in names:
            statements.setdefault(bound, []).append(statement)
        if not (names or isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement) or _is_typing_only(statement)):
            loose.append(statement)
    definitions = {bound: _definition([*found, *loose]) for bound, found in statements.items()}
    return {"definitions": definitions, "imports": list(_package_imports(tree, name))}


def _definition(statements: list[ast.stmt]) -> tuple[str, list[tuple[str, str | None]]]:
    text = ";".join(_canonical(statement) for statement in statements)
    names: dict[tuple[str, str | None], None] = {}
    for node in _executed(*statements):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names[node.value.id, node.attr] = None
        elif isinstance(node, ast.Name):
            names[node.id, None] = None
    return hashlib.sha256(text.encode()).hexdigest(), list(names)


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.TypeAlias):
        yield from (node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def _package_imports(tree: ast.Module, name: str) -> Iterator[tuple[str, str, str | None]]:
    """Imports from this package, at any depth, as (local name, where from, name there); those for type checkers only are left out."""
    for node in _executed(tree, kinds=(ast.stmt, ast.ExceptHandler, ast.match_case)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name):
                    yield alias.asname or alias.name.split(".")[0], alias.name, None
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = name.split(".") if module_file(name).name == "__init__.py" else name.split(".")[:-1]
                source = ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names if _is_ours(source) else []:
                yield alias.asname or alias.name, source, alias.name


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def _exists(module: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):
        return bool(module_file(module))
    return False


def _is_package(module: str) -> bool:
    return module_file(module).name == "__init__.py"


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


# ---------------------------------------------------------------------------------------------------------- what executes

_IGNORED_FIELDS = {"ctx", "type_comment", "type_ignores", "kind", "returns", "type_params"}


def _children(node: ast.AST) -> Iterator[tuple[str, list[Any]]]:
    """Fields of a node that decide what it does, as lists; empty ones are left out, as their presence differs between Python versions."""
    for name in node._fields:
        value = None if name in _IGNORED_FIELDS else getattr(node, name, None)
        if value is None or (name == "annotation" and isinstance(node, ast.arg)):
            continue
        values = value if isinstance(value, list) else [value]
        kept = [item for item in values if not (isinstance(item, ast.Expr | ast.If) and (_is_text(item) or _is_typing_only(item)))]
        if kept and kept != [None]:
            yield name, kept


def _executed(*nodes: ast.AST, kinds: tuple[type[ast.AST], ...] = (ast.AST,)) -> Iterator[ast.AST]:
    """Nodes and all below them, in the order of the text; only those of `kinds`, and what is below them."""
    waiting = [*reversed(nodes)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed([value for _, values in _children(node) for value in values if isinstance(value, kinds)])


def _canonical(node: object) -> str:
    if not isinstance(node, ast.AST):
        return repr(node)
    inner = ",".join(f"{name}=[{','.join(_canonical(value) for value in values)}]" for name, values in _children(node))
    return f"{type(node).__name__}({inner})"
