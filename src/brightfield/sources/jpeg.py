"""Is a JPEG sound from its first bit to its last? Decoders do not say: they paint over damage and go on.

Pillow raises only where data ends too early; libjpeg knows more, as warnings that nobody sees. So the entropy-coded data is walked without
transforming it (`jpeg_walk.py`): every code must exist, every block end where blocks end, brightness stay in range, and the data be used up
exactly when the picture is complete. Random damage rarely survives that; a changed value that leaves all codes valid does, which only a
checksum from the source could tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.sources import jpeg_walk
from brightfield.sources.jpeg_walk import PADDING, code_table

SIGNATURE = b"\xff\xd8"
"""What every JPEG begins with."""

_SOS, _DQT, _DHT, _DRI = 0xDA, 0xDB, 0xC4, 0xDD
_BASELINE = (0xC0, 0xC1)
_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {_DHT, 0xC8, 0xCC}
_END = re.compile(rb"\xff+\xd9")


@dataclass(slots=True)
class _Header:
    """What precedes the data of a baseline picture."""

    bits: int = 0
    height: int = 0
    width: int = 0
    components: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # id: horizontal, vertical sampling, quantisation table
    quantiser_dc: dict[int, int] = field(default_factory=dict)
    codes: dict[int, bytes] = field(default_factory=dict)  # table class << 4 | number: its definition
    restart_interval: int = 0
    scan: tuple[tuple[int, int, int], ...] = ()  # component id, DC and AC table
    data_at: int = 0


def damage(body: bytes) -> str | None:
    """What is wrong with a JPEG, or None where it is sound.

    Progressive, arithmetic and multi-scan pictures are believed if their segments can be read: their data is not walked.
    """
    return inspect(body).damage


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an inspection found: what is wrong (None: sound), and (rows, columns) of a picture that is grey and was walked to its end."""

    damage: str | None = None
    grey_shape: tuple[int, int] | None = None


def inspect(body: bytes) -> Verdict:
    """See `damage`; no decoder need be asked whether a picture with a `grey_shape` and without damage is one."""
    try:
        header = _header(body)
        if header is None:
            return Verdict()
        is_grey = len(header.components) == 1 and header.bits == 8
        return Verdict(_data_damage(body, header), (header.height, header.width) if is_grey else None)
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        return Verdict("the header is damaged")


def _header(body: bytes) -> _Header | None:
    """Read all segments up to the data; None for a kind of JPEG whose data is not walked."""
    if not body.startswith(SIGNATURE):
        raise ValueError("no start of image")
    header, at = _Header(), 2
    while True:
        if body[at] != 0xFF:
            raise ValueError("no marker")
        marker = body[at + 1]
        if marker in _OTHER_FRAMES:
            return None
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        size = int.from_bytes(body[at + 2 : at + 4])
        segment = body[at + 4 : at + 2 + size]
        if len(segment) != size - 2:
            raise ValueError("segment cut short")
        at += 2 + size
        if marker == _SOS:
            header.data_at = at
            return _with_scan(header, segment)
        _read_segment(header, marker, segment)


def _read_segment(header: _Header, marker: int, segment: bytes) -> None:
    if marker in _BASELINE:
        header.bits, header.height, header.width = segment[0], int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
        for i in range(segment[5]):
            number, sampling, table = segment[6 + 3 * i : 9 + 3 * i]
            header.components[number] = (sampling >> 4, sampling & 15, table)
    elif marker == _DQT:
        while segment:
            wide = segment[0] >> 4
            header.quantiser_dc[segment[0] & 15] = int.from_bytes(segment[1 : 2 + wide])
            segment = segment[1 + 64 * (1 + wide) :]
    elif marker == _DHT:
        while segment:
            n_codes = sum(segment[1:17])
            definition = segment[1 : 17 + n_codes]
            code_table(definition)  # raises for what is no table, used or not
            header.codes[segment[0]] = definition
            segment = segment[17 + n_codes :]
    elif marker == _DRI:
        header.restart_interval = int.from_bytes(segment[:2])


def _with_scan(header: _Header, segment: bytes) -> _Header | None:
    pairs = (segment[1 + 2 * i : 3 + 2 * i] for i in range(segment[0]))
    header.scan = tuple((number, tables >> 4, tables & 15) for number, tables in pairs)
    return header if len(header.scan) == len(header.components) else None


def _data_damage(body: bytes, header: _Header) -> str | None:
    samplings = [header.components[number][:2] for number, _, _ in header.scan]
    across, down = (max(values) for values in zip(*samplings, strict=True))
    if len(samplings) == 1:  # a single component is not interleaved: its unit is one block
        samplings, across, down = [(1, 1)], 1, 1
    n_units = -(-header.width // (8 * across)) * -(-header.height // (8 * down))
    blocks = np.array([i for i, (h, v) in enumerate(samplings) for _ in range(h * v)])
    codes = tuple((header.codes[dc], header.codes[0x10 | ac]) for _, dc, ac in header.scan)
    limit = np.array([1024 // max(1, header.quantiser_dc[header.components[number][2]]) + 1 for number, _, _ in header.scan])
    data, at, interval = np.frombuffer(body, np.uint8), header.data_at, header.restart_interval or n_units
    for number, first in enumerate(range(0, n_units, interval)):
        stretch, n_bytes, marker = _unstuffed(data, at)
        if marker < 0:
            return "data ends too early"
        if complaint := jpeg_walk.complaint(stretch, n_bytes, min(interval, n_units - first), blocks, codes, limit):
            return complaint
        last = first + interval >= n_units
        if not last and body[marker + 1] != 0xD0 + number % 8:
            return "a restart marker is missing"
        at = marker if last else marker + 2
    return None if _END.match(body, at) else "data goes on after the last block"


@njit(cache=True, nogil=True)
def _unstuffed(body: NDArray[np.uint8], start: int) -> tuple[NDArray[np.uint8], int, int]:
    """The data up to the next marker, padded, without the zero that follows each 255; its bytes; and where the marker is, or -1."""
    data, n_bytes = np.empty(len(body) - start + PADDING, np.uint8), 0
    while True:
        full = _next_255(body, start)
        if full + 1 >= len(body):
            return data, 0, -1
        for byte in body[start : full + 1]:
            data[np.uint64(n_bytes)] = byte
            n_bytes += 1
        if body[full + 1] != 0:
            data[n_bytes - 1 : n_bytes - 1 + PADDING] = 0
            return data, n_bytes - 1, full
        start = full + 2


@njit(cache=True, nogil=True)
def _next_255(body: NDArray[np.uint8], at: int) -> int:
    while at + 64 <= len(body):
        found = False
        for byte in body[at : at + 64]:  # to the end in any case: so it is a few instructions
            found |= byte == 0xFF
        if found:
            break
        at += 64
    while at < len(body) and body[at] != 0xFF:
        at += 1
    return at
