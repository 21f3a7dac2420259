"""What a download really asked and received, beside what was expected of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from brightfield.config.options import Config
from brightfield.core.files import write_json
from brightfield.sources.http.client import Traffic
from brightfield.sources.source import Source
from brightfield.stages.download.estimate import Pace, Plan, duration, size

_NAME = "traffic.json"


@contextmanager
def counted(source: Source, partial: Path) -> Iterator[None]:
    """Leave what `source` was asked for within this in the directory `partial`, however it ends."""
    try:
        yield
    finally:
        if source.traffic is not None and partial.is_dir():
            write_json(partial / _NAME, asdict(source.traffic))


@contextmanager
def clocked(partials: Iterable[Path], expected: Plan, config: Config) -> Iterator[None]:
    """Say at the end what `counted` left in these directories, how long it took, and what was expected; silent where nothing was to do."""
    places = [partial / _NAME for partial in partials]
    for place in places:
        place.unlink(missing_ok=True)
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    if expected.cells:
        print(f"images: {real(_sum(places), seconds, config.compute.connections)}")
        print(f"expected: {expected.totals['requests']:,} requests, {expected.time_as_text(pace_of(config))}")


def pace_of(config: Config) -> Pace:
    """The pace at the connections and the limit of a configuration."""
    return Pace(connections=config.compute.connections, requests_per_s=config.compute.requests_per_second)


def real(traffic: Traffic, seconds: float, connections: int) -> str:
    """What came of a download, in words: an answer's time is that of a connection, between one request and the next."""
    if not traffic.requests:
        return f"all came in {duration(seconds)}"
    answer_ms = 1000 * seconds * connections / traffic.requests
    return (
        f"{traffic.requests:,} requests ({traffic.retries:,} of them further attempts), {size(traffic.bytes)} on the wire in "
        f"{duration(seconds)}: {traffic.bytes / seconds / 1e6:.2g} MB/s, {answer_ms:.0f} ms an answer over {connections} connections"
    )


def _sum(places: Iterable[Path]) -> Traffic:
    total = Traffic()
    for place in places:
        if place.is_file():
            found = Traffic(**json.loads(place.read_text()))
            total.requests += found.requests
            total.retries += found.retries
            total.bytes += found.bytes
            total.waited_s += found.waited_s
    return total
