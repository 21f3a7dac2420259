"""Every error, and everything that a check can find, has its place on the page about errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

import brightfield.errors
from brightfield.core import errors
from brightfield.core.errors import BrightfieldError, more_about
from brightfield.stages.manifest.checks import CHECKS
from repositories import REPOSITORY

PAGE = (REPOSITORY / errors.ERRORS_PAGE).read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SOURCES = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((REPOSITORY / "src").rglob("*.py"))]


def error_classes() -> set[str]:
    """The names of all subclasses of BrightfieldError in the sources, found without importing what may be absent."""
    bases = {
        node.name: {ast.unparse(b) for b in node.bases} for tree in SOURCES for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    found, before = {"BrightfieldError"}, set[str]()
    while found != before:
        before = set(found)
        found |= {name for name, of in bases.items() if of & found}
    return found


def findings() -> Iterator[str]:
    """The names of all findings: those that are written out where one is made, those of the checks, those of the rows about SWC nodes."""
    place = {"Finding": 1, "error_of": 0, "warning_of": 0}
    for node in (node for tree in SOURCES for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place and len(node.args) > 1:
            name = node.args[place[node.func.id]]
            if isinstance(name, ast.Constant):
                yield str(name.value)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"swc-[a-z-]+", str(node.value)):
            yield str(node.value)
    yield from (check.__name__.removeprefix("check_") for check in CHECKS)


def test_every_class_has_a_section_and_every_section_a_class() -> None:
    classes = error_classes()
    assert {"BrightfieldError", "SkeletonError", "CellFailures", "QueryRefusedError"} <= classes
    assert set(SECTIONS) == classes | {"Findings"}
    assert [name for name, text in SECTIONS.items() if len(text.split()) < 20] == []


@pytest.mark.parametrize("name", sorted(set(SECTIONS) & set(vars(errors))))
def test_a_message_points_to_a_section_that_is_there(name: str) -> None:
    kind: type[BrightfieldError] = getattr(errors, name)
    error = kind("align", {1: "x"}, remedy="y") if kind is errors.CellFailures else kind("x")  # type: ignore[call-arg]
    page, _, anchor = (more_about(error) or f"{errors.ERRORS_PAGE}#{name.lower()}").partition("#")
    assert page == errors.ERRORS_PAGE
    assert anchor == name.lower()
    assert f"\n## {name}\n" in PAGE


def test_the_public_module_has_every_error_that_a_script_can_meet() -> None:
    assert set(brightfield.errors.__all__) == error_classes() - {"QueryRefusedError"}


def test_every_finding_is_explained() -> None:
    said = {name for row in re.findall(r"^\| (`.*?) \|", SECTIONS["Findings"], re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    assert said == set(findings()) - {"notes"}  # the check that repeats what the stages noticed
