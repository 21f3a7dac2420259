"""What the plans of all cells cost: planes, requests, bytes, room and time. Sums alone are kept, the plans themselves need not be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from brightfield.core.errors import CapacityError
from brightfield.stages.download.plan import CellPlan


@dataclass(frozen=True, slots=True)
class Wire:
    """What crosses the wire for a byte of pixels: (low, high), on what basis, and whether levels above 0 read full resolution."""

    share: tuple[float, float]
    basis: str
    full_resolution: bool = False


JPEG_TILES = Wire((0.06, 0.17), "JPEG at 0.06-0.17 bytes per pixel")
"""Range measured on the Allen service's JPEG tiles."""

STACK_FILES = Wire((0.34, 1.0), "the files as they are: 0.34-1.00 of the pixels that are touched", full_resolution=True)
"""Lossless compression left 0.34 of a real crop at best; files without compression are read by rows."""

STORED_SHARE = (0.40, 0.60)
"""Of the uncompressed bytes: blosc-zstd left 0.34-0.42 of a real crop, and the pyramid adds 0.3 of that."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How quickly a source is believed to answer.

    rate_mb_s: of all connections together, on the wire. latency_s: from a request to the end of its answer, the time that its bytes take
    aside. requests_per_s: the limit, 0 for none.
    """

    rate_mb_s: float = 10.0
    latency_s: float = 0.1
    connections: int = 8
    requests_per_s: float = 0.0

    def seconds(self, n_bytes: float, n_requests: float) -> tuple[float, str]:
        """How long a download takes, and what it waits for most: whichever takes longest, as they go on beside each other."""
        causes = {
            "bytes": n_bytes / (self.rate_mb_s * 1e6),
            "answers": n_requests * self.latency_s / self.connections,
            "the limit of requests": n_requests / self.requests_per_s if self.requests_per_s else 0.0,
        }
        cause = max(causes, key=lambda name: causes[name])
        return round(causes[cause], 1), cause

    def __str__(self) -> str:
        limit = f"at most {self.requests_per_s:g} requests a second" if self.requests_per_s else "no limit of requests"
        return f"{self.rate_mb_s:g} MB/s, {1000 * self.latency_s:g} ms an answer over {self.connections} connections, {limit}"


@dataclass(frozen=True, slots=True)
class CellSums:
    """What the plan of a cell comes to.

    planes: from which something is fetched. bytes: of its tiles, uncompressed. bytes_asked: of its pictures, which hold more than its tiles
    where that saves requests.
    """

    specimen_id: int
    level: int
    planes: int
    tiles: int
    tiles_missing: int
    requests: int
    bytes: int
    bytes_asked: int

    @classmethod
    def of(cls, plan: CellPlan) -> CellSums:
        """The sums of a plan."""
        n_tiles = int(plan.requested.sum())
        tiles, n_bytes = (n_tiles, len(plan.tiles) - n_tiles), (plan.n_bytes, plan.n_bytes_asked)
        return cls(plan.specimen_id, plan.level, plan.n_planes, *tiles, plan.n_requests, *n_bytes)


@dataclass(frozen=True, eq=False)
class Plan:
    """The plans of all cells, what is already there, and the room there is.

    there: specimen ids whose images are finished. free_bytes: of the disk that will hold them; None where unknown. max_gb: the limit of
    the pixels of all cells, uncompressed. bytes_there: of finished images beside `cells`, which count for that limit. wire: how the source
    sends pixels. failures: cells without a plan, and why. left_out: why other cells are not taken, a line for each reason.
    """

    cells: tuple[CellSums, ...]
    there: frozenset[int] = frozenset()
    free_bytes: int | None = None
    max_gb: float = math.inf
    bytes_there: int = 0
    wire: Wire = JPEG_TILES
    failures: Mapping[int, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(sorted(self.cells, key=lambda cell: cell.specimen_id)))

    @cached_property
    def totals(self) -> dict[str, Any]:
        """The sums, of everything and of what is still to be fetched; ranges are (low, high) estimates."""
        todo = [cell for cell in self.cells if cell.specimen_id not in self.there]
        n_bytes_touched = sum(cell.bytes_asked << (2 * cell.level if self.wire.full_resolution else 0) for cell in todo)
        n_bytes_todo = sum(cell.bytes for cell in todo)
        names = ("planes", "tiles", "tiles_missing", "requests", "bytes", "bytes_asked")
        return {
            "cells": len(self.cells),
            "cells_there": len(self.cells) - len(todo),
            **{name: sum(getattr(cell, name) for cell in self.cells) for name in names},
            "requests_todo": sum(cell.requests for cell in todo),
            "bytes_todo": n_bytes_todo,
            "wire_bytes_todo": [round(n_bytes_touched * share) for share in self.wire.share],
            "disk_bytes_todo": [round(n_bytes_todo * share) for share in STORED_SHARE],
            "free_bytes": self.free_bytes,
        }

    @property
    def refusal(self) -> str:
        """Why it must not be carried out as it is: more than `max_gb`, or than the disk can hold. Empty where it may be."""
        total, needed = self.totals["bytes"] + self.bytes_there, self.totals["disk_bytes_todo"][1]
        if total > self.max_gb * 1e9:
            return (
                f"the plan is {size(total)} of pixels, more than image.max_gb={self.max_gb:g}; raise the limit, or ask for less: "
                "source.specimen_ids, image.level, image.z_step, image.radius_um, image.coverage"
            )
        if self.free_bytes is not None and needed > self.free_bytes:
            return f"the plan needs up to {size(needed)} on disk and {size(self.free_bytes)} are free; make room, or ask for less pixels"
        return ""

    def check_capacity(self) -> None:
        """Raise CapacityError for a `refusal`."""
        if self.refusal:
            raise CapacityError(self.refusal)

    def seconds(self, pace: Pace) -> tuple[tuple[float, str], tuple[float, str]]:
        """How long what is to do takes, and what it waits for: (low, high)."""
        low, high = (pace.seconds(n_bytes, self.totals["requests_todo"]) for n_bytes in self.totals["wire_bytes_todo"])
        return low, high

    def time_as_text(self, pace: Pace) -> str:
        """The time of what is to do, with what it waits for and what was assumed."""
        spans, causes = (list(dict.fromkeys(both)) for both in zip(*((duration(s), cause) for s, cause in self.seconds(pace)), strict=True))
        return f"{' to '.join(spans)}, spent on {' or '.join(causes)} ({pace})"

    def as_json(self, pace: Pace) -> str:
        """The totals, the time at a pace and the sums of each cell, for programs."""
        low, high = self.seconds(pace)
        more = {
            "seconds_todo": [low[0], high[0]],
            "seconds_spent_on": [low[1], high[1]],
            "pace": asdict(pace),
            "refusal": self.refusal,
            "cells_detail": [{**asdict(cell), "there": cell.specimen_id in self.there} for cell in self.cells],
            "failures": {str(specimen_id): reason for specimen_id, reason in self.failures.items()},
            "left_out": [line.strip() for line in self.left_out],
        }
        return json.dumps({**self.totals, **more}, indent=2)

    def as_text(self, pace: Pace) -> str:
        """The totals and the time at a pace, for people; every estimate with its basis."""
        t = self.totals
        wire, disk = t["wire_bytes_todo"], t["disk_bytes_todo"]
        missing = f" (and {t['tiles_missing']:,} on planes that the source lacks)" if t["tiles_missing"] else ""
        rows = [
            ("cells", f"{t['cells']:,}, {t['cells_there']:,} of them already there"),
            ("planes", f"{t['planes']:,}"),
            ("tiles", f"{t['tiles']:,}{missing}"),
            ("requests", f"{t['requests']:,} after merging neighbours{self._thrown_away}, {t['requests_todo']:,} to do"),
            ("pixels", f"{size(t['bytes'])} uncompressed, {size(t['bytes_todo'])} to do"),
            ("on the wire", f"{size(wire[0])} to {size(wire[1])} to do ({self.wire.basis})"),
            (
                "on disk",
                f"{size(disk[0])} to {size(disk[1])} to do (zstd and pyramid: {STORED_SHARE[0]:.2f}-{STORED_SHARE[1]:.2f} of the pixels)",
            ),
            ("time", self.time_as_text(pace)),
            ("free disk", "unknown" if self.free_bytes is None else size(self.free_bytes)),
            *([("refused", self.refusal)] if self.refusal else []),
            *((f"cell {specimen_id}", reason) for specimen_id, reason in self.failures.items()),
        ]
        left_out = ["left out", *self.left_out] if self.left_out else []
        return "\n".join([*(f"{name:<12} {value}" for name, value in rows), *left_out])

    @property
    def _thrown_away(self) -> str:
        """What requests bring beyond the tiles, in words."""
        more = self.totals["bytes_asked"] - self.totals["bytes"]
        return f" (for {size(more)} more pixels, which are thrown away)" if more else ""


def size(n_bytes: float) -> str:
    """Bytes in a unit that people read."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds in a unit that people read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
