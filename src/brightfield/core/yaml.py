"""YAML as people write it by hand, read strictly: the JSON-like core of YAML 1.2, and nothing that could be meant in two ways.

The general reader takes the last of two equal keys, reads 010 as 8 and 1:30 as 90, and follows aliases until the memory is full. This one
refuses two equal keys, aliases, tags, whole numbers with leading zeros or more than 18 digits, nesting beyond MAX_DEPTH and files beyond
MAX_BYTES; `yes`, `1:30` and dates are texts, as YAML 1.2 has them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from brightfield.core.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 10
_MAX_DIGITS = 18


def read_yaml(path: Path, name: str = "") -> Any:
    """The one document of a YAML file, as plain Python values. Raises ConfigError of one line, with `name` (default: the path) and line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name or path} cannot be read: {error.strerror}") from error
    return parse_yaml(data, name or str(path))


def parse_yaml(data: bytes, name: str) -> Any:
    """The same of the bytes of a file."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name} has {len(data):,} bytes; what people write by hand has at most {MAX_BYTES:,}")
    try:
        return yaml.load(data.decode("utf-8"), _Loader)  # noqa: S506  (a safe loader: plain values only)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text: byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: cannot be read as YAML: {' '.join(str(error.problem or error.context).split())[:200]}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the types of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as PyYAML declares it)
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node, unless it is an alias, tagged or too deep."""
        self._depth += 1
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = {
            "aliases are not allowed; write the value again": isinstance(event, yaml.AliasEvent),
            "tags are not allowed; write the value as it is": getattr(event, "tag", None) is not None,
            f"it is nested more than {MAX_DEPTH} deep": self._depth > MAX_DEPTH,
        }
        for problem in (problem for problem, found in refused.items() if found):
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: ARG002  (always whole)
        """A mapping whose keys are texts, each once."""
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in found:
                problem = "a key is a word" if key is None else f"{key[:80]} is there twice; keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """A whole number that can be meant in one way only."""
        digits = node.value.lstrip("+-")
        if len(digits) > _MAX_DIGITS or (digits[0] == "0" and len(digits) > 1):
            problem = f"{node.value[:40]} is no whole number here: no leading zeros, at most {_MAX_DIGITS} digits (quote a text)"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(node.value)


def _constant(values: dict[str, Any]) -> Any:
    return lambda _, node: values[node.value.lower()]


_TYPES: dict[str, tuple[str, str, Any]] = {
    "null": (r"~|null|Null|NULL|", "~nN\0", _constant({"~": None, "null": None, "": None})),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", _constant({"true": True, "false": False})),
    "int": (r"[-+]?[0-9]+", "-+0123456789", _Loader.whole_number),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        lambda _, node: float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
    "str": ("", "", lambda loader, node: loader.construct_scalar(node)),
    "seq": ("", "", lambda loader, node: [loader.construct_object(item, deep=True) for item in node.value]),
    "map": ("", "", lambda loader, node: loader.construct_mapping(node)),
}
for _name, (_pattern, _first, _construct) in _TYPES.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    _Loader.add_constructor(_tag, _construct)
    if _first:
        _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first])
