"""Pages from templates: escaped text, fixed formats, and a digest of the templates, which are code that no Python file names."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from brightfield.stages.report.numbers import length, number, percent, short

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "brightfield.stages.report"


def render(template: str, **values: Any) -> str:
    """A page; text is escaped. Raises jinja2's errors for a value that the template names and that is not given."""
    return _environment().get_template(template).render(values)


def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return files(_PACKAGE).joinpath("templates", name).read_text(encoding="utf-8")


def assets_digest(*names: str) -> str:
    """sha256 over the texts of several of them."""
    return hashlib.sha256("\0".join(map(asset, names)).encode()).hexdigest()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "short": short, "um": length, "percent": percent}
    return environment
