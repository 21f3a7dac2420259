from __future__ import annotations

from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.errors import TransferError
from brightfield.stages.download.journal import Journal, file_record, holds

RECORDS = [{"unit": 0, "files": []}, {"unit": 1, "tiles": [[1, "ab", None]]}, {"unit": 2}]


def _written(path: Path) -> bytes:
    with Journal(path, "work") as journal:
        for record in RECORDS:
            journal.append(record)
    return path.read_bytes()


def test_records_come_back(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    with Journal(tmp_path / "j", "work") as journal:
        assert journal.records == RECORDS


def test_records_of_other_work_are_dropped(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    with Journal(tmp_path / "j", "other work") as journal:
        assert journal.records == []
    with Journal(tmp_path / "j", "work") as journal:
        assert journal.records == []


@given(cut=st.integers(0, 400), junk=st.binary(max_size=20))
def test_a_torn_end_costs_only_what_was_torn(tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("torn") / "j"
    data = _written(path)
    path.write_bytes(data[: max(0, len(data) - cut)] + junk)
    with Journal(path, "work") as journal:
        n = len(journal.records)
        assert journal.records == RECORDS[:n]
        assert n >= data[: max(0, len(data) - cut)].count(b"\n") - 1
        journal.append({"unit": 9})
    with Journal(path, "work") as journal:
        assert journal.records == [*RECORDS[:n], {"unit": 9}]


def test_rewriting_keeps_what_is_said(tmp_path: Path) -> None:
    _written(tmp_path / "j")
    with Journal(tmp_path / "j", "work") as journal:
        journal.rewrite("work", RECORDS[:1])
        journal.append(RECORDS[2])
    with Journal(tmp_path / "j", "work") as journal:
        assert journal.records == [RECORDS[0], RECORDS[2]]


def test_a_journal_has_one_owner(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "work"), pytest.raises(TransferError, match="another process is at work here"):
        Journal(tmp_path / "j", "work")
    with Journal(tmp_path / "j", "work"):
        pass


@pytest.mark.parametrize("damage", ["gone", "longer", "other bytes"])
def test_a_file_is_believed_only_as_it_was_recorded(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a" / "b"
    file.parent.mkdir()
    file.write_bytes(b"shard")
    record = file_record(file, tmp_path, 5, google_crc32c.value(b"shard"))
    assert holds(record, tmp_path)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"shards" if damage == "longer" else b"shred")
    assert not holds(record, tmp_path)
