"""Write the reference pages that are made from the code: `make reference`. A test compares them with what this would write."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import brightfield
from brightfield.config.compose import reference as configuration
from brightfield.core.tables import reference_page as tables
from brightfield.volumes.volume import Volume

FOLDER = Path(__file__).parent / "reference"
HEAD = """# Python

The names that scripts may rely on: `import brightfield` has them, and nothing is imported before it is used. Also importable as
`brightfield.raster.rasterize`, `brightfield.skeleton.read_swc` and `brightfield.space.Grid`. Made from the docstrings.
"""


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    return {FOLDER / "configuration.md": configuration(), FOLDER / "tables.md": tables(), FOLDER / "python.md": python()}


def python() -> str:
    """The page of the public names."""
    names = [name for name in brightfield.__all__ if not name.startswith("_")]
    documented = [(name, getattr(brightfield, name)) for name in names] + [("Volume", Volume)]
    return HEAD + "".join(_entry(f"brightfield.{name}" if name != "Volume" else name, thing) for name, thing in documented)


def _entry(name: str, thing: object) -> str:
    text = f"\n## {name}\n\n{_signature(name, thing)}{inspect.getdoc(thing)}\n"
    return text + "".join(_members(thing)) if inspect.isclass(thing) else text


def _members(thing: type) -> Iterator[str]:
    for name, member in vars(thing).items():
        function = member.fget if isinstance(member, property) else getattr(member, "func", None) or getattr(member, "__func__", member)
        if not name.startswith("_") and (inspect.isfunction(function)) and inspect.getdoc(function):
            title = f"`.{name}`" if function is not member and not isinstance(member, classmethod) else f"`.{name}{_arguments(function)}`"
            yield f"\n**{title}** {inspect.getdoc(function)}\n"


def _signature(name: str, thing: object) -> str:
    if name == "Volume" or not callable(thing):
        return ""
    return f"```python\n{name}{_arguments(thing)}\n```\n\n"


def _arguments(thing: object) -> str:
    signature = inspect.signature(thing)  # type: ignore[arg-type]
    kept = [parameter.replace(annotation=_Bare(parameter.annotation)) for parameter in signature.parameters.values()]
    bare = signature.replace(
        parameters=[p for p in kept if p.name not in ("self", "cls")], return_annotation=_Bare(signature.return_annotation)
    )
    return str(bare).removesuffix(" -> None")


class _Bare(str):
    """An annotation as it is written in the code, without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
