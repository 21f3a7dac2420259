"""`params.yaml`: the composed configuration that stages read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from brightfield.config.options import Config, SourceConfig, SourceKind
from brightfield.config.validate import validate
from brightfield.core.errors import ConfigError
from brightfield.core.urls import public_url
from brightfield.core.yaml import read_yaml


def source_name(source: SourceConfig) -> str:
    """What makes a source another one: its URL or path, or `demo`, whose mirror has another port each time. For keys."""
    if source.kind == SourceKind.demo:
        return "demo"
    return public_url(source.base_url if source.kind == SourceKind.allen else source.path)


def published_name(source: SourceConfig) -> str:
    """What tables, card, report and volumes call the source: `source_name`, but a path on somebody's disk is told to nobody."""
    name = source_name(source)
    is_own = source.kind in (SourceKind.folder, SourceKind.challenge)
    return "own stacks" if is_own and not re.match(r"(?!file:|local:)[A-Za-z][\w+.-]*://", name.rpartition("::")[2]) else name


def load(params_path: Path | str) -> Config:
    """The configuration in a `params.yaml`, edited by hand or not, under the same rules as composition. Raises ConfigError."""
    path = Path(params_path)
    if not path.exists():
        raise ConfigError(f"{path} is not there; write it with `brightfield config`")
    return validate(read_yaml(path, path.name), origin=path.name)


def plain(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested dicts of plain values (an enum is its name), in the order of the dataclasses."""
    raw: dict[str, dict[str, Any]] = asdict(config)
    return {group: {name: str(v) if isinstance(v, Enum) else v for name, v in inner.items()} for group, inner in raw.items()}


def section_digest(config: Config, groups: Iterable[str]) -> str:
    """sha256 over the named groups (`source`) or single options (`image.level`); the order of naming does not matter. For keys."""
    values = plain(config)
    chosen: dict[str, Any] = {}
    for name in groups:
        group, _, leaf = name.partition(".")
        chosen[name] = values[group][leaf] if leaf else values[group]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
