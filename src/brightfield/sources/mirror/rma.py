"""The query language of the Allen service (RMA), as far as AllenSDK and this project speak it, over tables in memory.

A query names a model, criteria, includes and options: ``model::SubImage,rma::criteria,data_set[id$in1,2],rma::options[num_rows$eq50]``.
Tables hold rows with their associations nested; an answer carries an association only where the query includes it, as the service does.
"""

from __future__ import annotations

import operator
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from brightfield.core.errors import BrightfieldError

type Row = Mapping[str, Any]
type Tables = Mapping[str, Sequence[Row]]

DEFAULT_ROWS = 50


class QueryRefusedError(BrightfieldError):
    """A query that the service would refuse; the message is what it answers."""


@dataclass(frozen=True, slots=True)
class Filter:
    """``[field$opvalue,value]``."""

    field: str
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """Filters on a row and on what is associated with it: ``[id$eq1],data_sets(sub_images[failed$eqfalse])``."""

    filters: tuple[Filter, ...] = ()
    associations: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. num_rows is None for all rows; order is pairs of field and whether it descends."""

    model: str
    criteria: Path = Path()
    include: Path = Path()
    num_rows: int | None = DEFAULT_ROWS
    start_row: int = 0
    order: tuple[tuple[str, bool], ...] = ()


type Recent = deque[tuple[Query, Sequence[Row], list[Row]]]
"""What queries selected lately, with the table that they saw: pages of one follow each other."""


def answer(tables: Tables, text: str, recent: Recent | None = None) -> dict[str, Any]:
    """The envelope that the service sends for the query `text`; for a query it refuses, `success` is false and `msg` says why."""
    try:
        query = parse(text)
        rows = _recalled(tables, replace(query, num_rows=None, start_row=0), deque(maxlen=1) if recent is None else recent)
        page = rows[query.start_row :][: query.num_rows]
        message = [_included(row, query.include) for row in page]
    except QueryRefusedError as refusal:
        return {"success": False, "id": 0, "start_row": 0, "num_rows": 0, "total_rows": 0, "msg": str(refusal)}
    return {"success": True, "id": 0, "start_row": query.start_row, "num_rows": len(page), "total_rows": len(rows), "msg": message}


# ------------------------------------------------------------------------------------------------------------------- parsing

_STAGE = re.compile(r",\s*rma::(criteria|include|options)\s*,?")
_OPERATORS = ("eq", "ne", "in", "nin", "lt", "gt", "le", "ge")
_FILTER = re.compile(rf"\[([\w.]+)\$({'|'.join(sorted(_OPERATORS, key=len, reverse=True))})([^\]]*)\]")


def parse(text: str) -> Query:
    """Read a query. Raises QueryRefusedError for what is no RMA query or asks for something that is not spoken here."""
    head, *rest = _STAGE.split(text.strip())
    match = re.fullmatch(r"model::(\w+)((?:\[[^\]]*\])*)", head)
    if not match:
        raise QueryRefusedError(f"Invalid query: expected model::NAME, found {head[:60]!r}")
    stages = dict(zip(rest[::2], rest[1::2], strict=True))
    own = match[2] + ("," + stages["criteria"] if stages.get("criteria") else "")
    options = {f.field: f.values for f in _filters(stages.get("options", ""))}
    if unknown := set(options) - {"num_rows", "start_row", "order", "count"}:
        raise QueryRefusedError(f"Invalid option: {', '.join(sorted(unknown))}")
    rows = options.get("num_rows", (str(DEFAULT_ROWS),))[0]
    return Query(
        model=match[1],
        criteria=_Parser(own).path(),
        include=_Parser(stages.get("include", "")).path(),
        num_rows=None if rows == "all" else _count(rows),
        start_row=_count(options.get("start_row", ("0",))[0]),
        order=tuple(_order(word) for word in options.get("order", ())),
    )


class _Parser:
    """Recursive descent over ``item,item`` where an item is filters or ``association(path)[filters]``."""

    def __init__(self, text: str) -> None:
        self._text = text.strip().strip(",")
        self._at = 0

    def path(self) -> Path:
        found = self._path()
        if self._at < len(self._text):
            raise self._refusal()
        return found

    def _path(self) -> Path:
        filters: list[Filter] = []
        associations: dict[str, Path] = {}
        while self._at < len(self._text) and self._text[self._at] != ")":
            if self._text[self._at] == ",":
                self._at += 1
            elif self._text[self._at] == "[":
                filters.append(self._filter())
            else:
                name, path = self._association()
                associations[name] = path
        return Path(tuple(filters), associations)

    def _association(self) -> tuple[str, Path]:
        match = re.compile(r"\w+").match(self._text, self._at)
        if not match:
            raise self._refusal()
        self._at = match.end()
        inner = Path()
        if self._text[self._at : self._at + 1] == "(":
            self._at += 1
            inner = self._path()
            if self._text[self._at : self._at + 1] != ")":
                raise self._refusal()
            self._at += 1
        filters = list(inner.filters)
        while self._text[self._at : self._at + 1] == "[":
            filters.append(self._filter())
        return match[0], Path(tuple(filters), inner.associations)

    def _filter(self) -> Filter:
        match = _FILTER.match(self._text, self._at)
        if not match:
            raise self._refusal()
        self._at = match.end()
        return _as_filter(match)

    def _refusal(self) -> QueryRefusedError:
        return QueryRefusedError(f"Invalid query near {self._text[self._at : self._at + 40]!r}")


def _filters(text: str) -> Iterator[Filter]:
    at = 0
    while at < len(text):
        match = _FILTER.match(text, at)
        if not match:
            raise QueryRefusedError(f"Invalid query near {text[at : at + 40]!r}")
        yield _as_filter(match)
        at = match.end()


def _as_filter(match: re.Match[str]) -> Filter:
    words = re.findall(r"'((?:[^'])*)'|([^,']+)", match[3])
    return Filter(match[1], match[2], tuple(quoted or bare for quoted, bare in words))


def _count(word: str) -> int:
    if not word.isdigit():
        raise QueryRefusedError(f"Invalid number of rows: {word!r}")
    return int(word)


def _order(word: str) -> tuple[str, bool]:
    name, _, direction = word.replace("$", " ").replace("+", " ").strip().partition(" ")
    return name.rpartition(".")[2], direction == "desc"


# ---------------------------------------------------------------------------------------------------------------- evaluation

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "gt": operator.gt,
    "le": operator.le,
    "ge": operator.ge,
}


def _recalled(tables: Tables, query: Query, recent: Recent) -> list[Row]:
    for known, table, rows in tuple(recent):
        if known == query and table is tables.get(query.model):
            return rows
    rows = _selected(tables, query)
    recent.append((query, tables[query.model], rows))
    return rows


def _selected(tables: Tables, query: Query) -> list[Row]:
    if query.model not in tables:
        raise QueryRefusedError(f"Unknown model: {query.model}")
    rows = tables[query.model]
    known = set(rows[0]) if rows else None  # the rows of a table are alike
    for path in (query.criteria, query.include):
        if known and (unknown := {*(f.field for f in path.filters), *path.associations} - known):
            raise QueryRefusedError(f"Unknown field of {query.model}: {', '.join(sorted(unknown))}")
    passes = _predicate(query.criteria)
    found = [row for row in rows if passes(row)]
    for name, descends in reversed(query.order):
        found.sort(key=lambda row: (row.get(name) is not None, row.get(name)), reverse=descends)
    return found


def _predicate(path: Path) -> Callable[[Row], bool]:
    """Whether a row passes its filters and, for each association, at least one associated row passes too (an inner join)."""
    filters = [(condition.field, _test(condition)) for condition in path.filters]
    joined = [(name, _predicate(inner)) for name, inner in path.associations.items()]

    def passes(row: Row) -> bool:
        for name, test in filters:
            if not test(row.get(name)):
                return False
        return all(any(map(inner, _associated(row, name))) for name, inner in joined)

    return passes


def _test(condition: Filter) -> Callable[[object], bool]:
    """Whether a value passes a filter; the filter's words are read once for each type of value."""
    typed: dict[type, frozenset[object]] = {}
    compare, is_in = _COMPARISONS.get(condition.operator), condition.operator in ("eq", "in")

    def test(value: object) -> bool:
        wanted = typed.get(type(value))
        if wanted is None:
            wanted = typed[type(value)] = _typed(condition, type(value))
        if compare is None:
            return (value in wanted) is is_in
        return value is not None and all(compare(value, bound) for bound in wanted)

    return test


def _typed(condition: Filter, kind: type) -> frozenset[object]:
    """The words of a filter as values of a column's type; `null` is None in all of them."""
    if issubclass(kind, list | tuple | dict):
        raise QueryRefusedError(f"Invalid filter: {condition.field} is an association")
    try:
        return frozenset(None if word == "null" else _AS.get(kind, str)(word) for word in condition.values)
    except (KeyError, ValueError) as error:
        raise QueryRefusedError(f"Invalid value: {', '.join(condition.values)[:60]!r}") from error


_AS: dict[type, Callable[[str], Any]] = {int: int, float: float, bool: {"true": True, "false": False}.__getitem__}


def _included(row: Row, include: Path) -> dict[str, Any]:
    """The row's own attributes, and of its associations those that are included and match."""
    shown: dict[str, Any] = {name: value for name, value in row.items() if not isinstance(value, dict | list | tuple)}
    for name, inner in include.associations.items():
        passes = _predicate(Path(inner.filters))
        others = [_included(other, inner) for other in filter(passes, _associated(row, name))]
        shown[name] = others if isinstance(row.get(name), list | tuple) else next(iter(others), None)
    return shown


def _associated(row: Row, name: str) -> Sequence[Row]:
    value = row.get(name)
    return value if isinstance(value, list | tuple) else () if value is None else (value,)
