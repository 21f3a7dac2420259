from __future__ import annotations

import threading

import pytest

from brightfield.run.progress import LINE_EVERY_S, _Log, progress, watched


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_a_minute_with_share_rate_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    log = _Log(40, "labels", "cell", clock)
    for _ in range(39):
        clock.now += 7.0
        log.advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == int(39 * 7.0 // LINE_EVERY_S)
    assert lines[0] == "labels: 9 cells of 40 cells (22 %), 8.57 a minute, 4 min left"


def test_bytes_are_shown_in_units_that_people_read() -> None:
    log = _Log(12_000_000_000, "images", "B", Clock())
    log.advance(3_000_000_000)
    assert log.line(120.0) == "images: 3 GB of 12 GB (25 %), 25 MB/s, 6 min left"


def test_what_is_done_soon_says_nothing_and_a_total_may_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "plans", "cell") as advance:
        advance(3)
    assert list(watched(iter("abc"), "files")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    log = _Log(0, "files", "file", Clock())
    log.advance(5)
    assert log.line(60.0) == "files: 5 files, 5 a minute"


def test_threads_lose_no_count() -> None:
    log = _Log(8000, "images", "B", Clock())
    threads = [threading.Thread(target=lambda: [log.advance(1) for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.done == 8000
