"""The service's records as typed rows: whatever it sends is judged here, once, and trusted by those who make cells of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, NotRequired, TypedDict

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from brightfield.core.errors import SourceError

MAX_ID = 2**63 - 1
MAX_TEXT = 1000
_SHOWN = 80  # characters of a value that is refused

type _Id = Annotated[int, Field(gt=0, le=MAX_ID)]
type _Whole = Annotated[int, Field(ge=-MAX_ID, le=MAX_ID)] | None
type _Text = Annotated[str, Field(max_length=MAX_TEXT)] | None


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _none_if_not_finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


type _Number = Annotated[float | None, BeforeValidator(_none_if_empty), AfterValidator(_none_if_not_finite)]


class _File(TypedDict):
    id: _Id
    well_known_file_type_id: NotRequired[_Whole]
    download_link: NotRequired[_Text]


class _Reconstruction(TypedDict):
    id: _Id
    specimen_id: _Id
    neuron_reconstruction_type: NotRequired[_Text]
    superseded: NotRequired[bool | None]
    scale_factor_x: NotRequired[_Number]
    scale_factor_z: NotRequired[_Number]
    well_known_files: NotRequired[list[_File] | None]


class _DataSet(TypedDict):
    id: _Id


class _Specimen(TypedDict):
    id: _Id
    data_sets: NotRequired[list[_DataSet] | None]


class _SubImage(TypedDict):
    id: _Id
    data_set_id: NotRequired[_Whole]
    specimen_id: NotRequired[_Whole]
    image_type: NotRequired[_Text]
    projection_function: NotRequired[_Text]
    axes: NotRequired[_Text]
    section_number: NotRequired[_Whole]
    width: NotRequired[_Whole]
    height: NotRequired[_Whole]
    x: NotRequired[_Whole]
    y: NotRequired[_Whole]
    resolution: NotRequired[_Number]
    failed: NotRequired[bool | None]


_MODELS = {"NeuronReconstruction": _Reconstruction, "Specimen": _Specimen, "SubImage": _SubImage}


@cache
def _adapter(model: str) -> TypeAdapter[Any]:
    return TypeAdapter(_MODELS[model])


def typed(model: str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a model with the columns that are used, each of its type; others are left out.

    Ids are whole numbers above 0 that 64 bits hold; numbers that are not finite, and empty ones, are None. Raises SourceError, naming
    record and column, for a row that is none.
    """
    return [_row(model, row) for row in rows]


def _row(model: str, row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = _adapter(model).validate_python(dict(row))
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(map(str, first["loc"]))
        raise SourceError(
            f"a record of the service cannot be read: {model} {shown(row.get('id'))}: {column} = {shown(first['input'])}: {first['msg']}"
        ) from error
    return found


def shown(value: object) -> str:
    """A value of the service as a message may show it: one short line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def grouped(rows: Iterable[Mapping[str, Any]], key: str) -> dict[int, list[Mapping[str, Any]]]:
    """Rows by the id in a column; those without one belong to nobody."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get(key) is not None:
            groups.setdefault(row[key], []).append(row)
    return groups
