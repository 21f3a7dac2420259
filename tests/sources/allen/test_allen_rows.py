"""Answers of another shape than the service's: taken for what they are, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from brightfield.config.options import ImageConfig, SourceConfig
from brightfield.core.cell import Cell
from brightfield.core.errors import SourceError
from brightfield.sources.allen.records import completed
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.http.client import Answer
from brightfield.sources.mirror import rma
from brightfield.sources.mirror.records import tables_of
from brightfield.stages.query.selection import survey
from brightfield.testing.source import small_cell

CELLS = (small_cell(1, missing=(1,)), small_cell(2, marker_file_id=None, marker_url=None), small_cell(3, stack=None))
TABLES = tables_of(CELLS)


class _Odd:
    """A client whose service is sound but for one column of the first record of a model, or of those within it."""

    def __init__(self, model: str, place: int, name: str, odd: object) -> None:
        self._model, self._place, self._name, self._odd = model, place, name, odd

    def get(self, url: str, *, verify: Callable[[Answer], Any]) -> Any:
        query = dict(parse_qsl(urlsplit(url).query))["q"]
        answer = rma.answer(TABLES, query)
        if query.startswith(f"model::{self._model},") and answer["msg"]:
            list(_nested(answer["msg"][0]))[self._place][self._name] = self._odd
        return verify(Answer("application/json", json.dumps(answer).encode()))


_ROW = {"specimen__id": 1, "specimen__name": "a", "donor__id": 2, "donor__species": "x"}
_BAD_ROWS = [{"specimen__id": 1e400}, {"specimen__id": -5}, {"specimen__id": 10**30}, {"specimen__name": None}, {"donor__id": "x"}]
_BAD_ROWS += [{"specimen__id": True}, {"specimen__id": 1.5}, {"donor__id": float("nan")}, {"line_name": "x" * 200_000}]


@pytest.mark.parametrize("msg", [None, "text", 5, [None], ["x"], {}, *[[_ROW | edit] for edit in _BAD_ROWS]])
def test_an_answer_of_another_shape_is_refused_in_words(msg: object) -> None:
    with pytest.raises(SourceError):
        AllenSource(_Answering(json.dumps({"success": True, "msg": msg}).encode()), "http://h").cells()  # type: ignore[arg-type]


def test_a_specimen_that_is_listed_twice_is_one_cell_and_two_that_differ_are_none() -> None:
    def cells(*rows: dict[str, object]) -> list[int]:
        answer = json.dumps({"success": True, "msg": rows}).encode()
        return [cell.specimen_id for cell in AllenSource(_Answering(answer), "http://h").cells()]  # type: ignore[arg-type]

    assert cells(_ROW | {"specimen__id": 3}, _ROW, _ROW) == [1, 3]
    with pytest.raises(SourceError, match="two records of specimen 1 that differ"):
        cells(_ROW, _ROW | {"donor__id": 9})


def test_texts_of_the_service_are_one_line_that_can_be_written_and_shown() -> None:
    row = _ROW | {"specimen__name": "a\x1b[31m\nb\u202ec\ud800", "donor__species": "Mus\nmusculus", "specimen__id": 1.0}
    (cell,) = AllenSource(_Answering(json.dumps({"success": True, "msg": [row]}).encode()), "http://h").cells()  # type: ignore[arg-type]
    assert (cell.specimen_id, cell.name, cell.species) == (1, "a [31m b c", "Mus musculus")


_ODD = (None, "", "abc", -5, 0, 1e400, float("nan"), 10**30, 10**12, True, [], {}, [None], "9" * 30, "\0", "a\nb", "x" * 200_000)


def _nested(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A record and those in it."""
    yield row
    for value in row.values():
        if isinstance(value, list):
            for inner in value:
                yield from _nested(inner)


def _survey(client: _Odd) -> str:
    """What is said where the answers are refused; nothing where they are taken."""
    try:
        cells, planes = survey(AllenSource(client, "http://h"), SourceConfig(), ImageConfig())  # type: ignore[arg-type]
    except SourceError as error:
        return str(error)
    assert 0 < len(cells) <= len(CELLS)
    assert len(planes) <= 20
    return ""


@pytest.mark.parametrize("model", list(TABLES))
def test_whatever_stands_in_a_record_it_is_taken_or_refused_in_one_line(model: str) -> None:
    for place, record in enumerate(_nested(dict(TABLES[model][0]))):
        for name, odd in product(record, _ODD):
            told = _survey(_Odd(model, place, name, odd))
            assert len(told) < 600, (name, odd)
            assert "\n" not in told, (name, odd)


@pytest.mark.parametrize("body", [b'{"success": true}', b"[" * 200_000, b"nonsense"])
def test_an_answer_that_is_no_envelope_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(SourceError):
        AllenSource(_Answering(body), "http://h").cells()  # type: ignore[arg-type]


def test_a_page_that_comes_again_ends_the_query() -> None:
    page = {"success": True, "msg": [{"id": 1, "data_set_id": 3}], "total_rows": 10**12}
    with pytest.raises(SourceError, match="same page of SubImage again at row 1"):
        AllenSource(_Answering(json.dumps(page).encode()), "http://h")._sub_images("data_set[id$in{}]", [3])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [({"section_number": 400_000_001}, "at most 20000 planes"), ({"width": -10}, "a side is 1 to"), ({"width": 10**12}, "a side is 1 to")],
)
def test_a_stack_of_impossible_size_is_the_cells_reason_and_costs_nothing(edit: dict[str, int], problem: str) -> None:
    image = {"id": 7, "data_set_id": 3, "width": 100, "height": 80, "resolution": 0.1, "section_number": 0, "image_type": "Primary"}
    scale = {"id": 5, "scale_factor_z": 0.28, "well_known_files": [{"id": 9, "well_known_file_type_id": 303941301}]}
    images = [image, image | {"id": 8, "section_number": 1} | edit] if "section_number" in edit else [image | edit]
    cell = completed(Cell(1, "a", 2, "x"), [scale], images, [])
    assert cell.stack is None
    assert problem in str(cell.stack_problem)


class _Answering:
    """A client to which every request has the same answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def get(self, url: str, *, verify: Any) -> Any:
        return verify(Answer("application/json", self._body))
