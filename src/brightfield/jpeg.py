"""Is a JPEG sound from its first bit to its last? Decoders do not say: they paint over damage and go on.

Pillow raises only where data ends too early; libjpeg knows more, as warnings that nobody sees. This walks the entropy-coded data without
transforming it (ITU-T T.81, annex F): every code must exist, every block end where blocks end, brightness stay in range, and the data be
used up exactly when the picture is complete. Random damage rarely survives that; a changed value that leaves all codes valid does, which
only a checksum from the source could tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

SIGNATURE = b"\xff\xd8"
"""What every JPEG begins with."""

_SOS, _DQT, _DHT, _DRI = 0xDA, 0xDB, 0xC4, 0xDD
_BASELINE = (0xC0, 0xC1)
_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {_DHT, 0xC8, 0xCC}
_PEEK = 16  # bits of the longest code
_COMPLAINTS = (
    "",
    "a code that does not exist",
    "a block longer than 64 coefficients",
    "brightness out of range",
    "data ends too early",
    "data goes on after the last block",
    "a restart marker is missing",
)


@dataclass(slots=True)
class _Header:
    """What precedes the data of a baseline picture."""

    height: int = 0
    width: int = 0
    components: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # id: horizontal, vertical sampling, quantisation table
    quantiser_dc: dict[int, int] = field(default_factory=dict)
    codes: dict[int, NDArray[np.uint16]] = field(default_factory=dict)  # table class << 4 | number
    restart_interval: int = 0
    scan: tuple[tuple[int, int, int], ...] = ()  # component id, DC and AC table
    data_at: int = 0


def damage(body: bytes) -> str | None:
    """What is wrong with a JPEG, or None where it is sound.

    Progressive, arithmetic and multi-scan pictures are believed if their segments can be read: their data is not walked.
    """
    try:
        header = _header(body)
        return None if header is None else _data_damage(body, header)
    except (IndexError, KeyError, ValueError):
        return "the header is damaged"


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
        header.height, header.width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
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
            header.codes[segment[0]] = _code_table(segment[1 : 17 + n_codes])
            segment = segment[17 + n_codes :]
    elif marker == _DRI:
        header.restart_interval = int.from_bytes(segment[:2])


def _with_scan(header: _Header, segment: bytes) -> _Header | None:
    pairs = (segment[1 + 2 * i : 3 + 2 * i] for i in range(segment[0]))
    header.scan = tuple((number, tables >> 4, tables & 15) for number, tables in pairs)
    return header if len(header.scan) == len(header.components) else None


@lru_cache(64)
def _code_table(definition: bytes) -> NDArray[np.uint16]:
    """For each 16 bits that may come next: code length << 8 | symbol, or 0 where no code begins so."""
    lengths = np.repeat(np.arange(1, 17), list(definition[:16]))
    table = np.zeros(1 << _PEEK, np.uint16)
    starts = np.concatenate([[0], np.cumsum(1 << (_PEEK - lengths))])
    if starts[-1] > 1 << _PEEK:
        raise ValueError("more codes than bits allow")
    for (low, high), length, symbol in zip(pairwise(starts.tolist()), lengths.tolist(), definition[16:], strict=True):
        table[low:high] = length << 8 | symbol
    return table


def _data_damage(body: bytes, header: _Header) -> str | None:
    samplings = [header.components[number][:2] for number, _, _ in header.scan]
    across, down = (max(values) for values in zip(*samplings, strict=True))
    if len(samplings) == 1:  # a single component is not interleaved: its unit is one block
        samplings, across, down = [(1, 1)], 1, 1
    n_units = -(-header.width // (8 * across)) * -(-header.height // (8 * down))
    blocks = [i for i, (h, v) in enumerate(samplings) for _ in range(h * v)]
    dc = np.stack([header.codes[table] for _, table, _ in header.scan])
    ac = np.stack([header.codes[0x10 | table] for _, _, table in header.scan])
    limit = [1024 // max(1, header.quantiser_dc[header.components[number][2]]) + 1 for number, _, _ in header.scan]
    data = np.frombuffer(body, np.uint8)
    complaint = _walk(data, header.data_at, n_units, np.array(blocks), dc, ac, np.array(limit), header.restart_interval)
    return _COMPLAINTS[complaint] or None


@njit(cache=True, nogil=True)
def _walk(  # noqa: C901  (one loop over bits: a call per code would double its time)
    data: NDArray[np.uint8],
    at: int,
    n_units: int,
    component_of_block: NDArray[np.int64],
    dc_codes: NDArray[np.uint16],
    ac_codes: NDArray[np.uint16],
    dc_limit: NDArray[np.int64],
    restart_interval: int,
) -> int:
    """Follow all codes from byte `at`; returns an index into `_COMPLAINTS`."""
    bits, n_bits = np.uint64(0), 0
    level = np.zeros(len(dc_limit), np.int64)
    for unit in range(n_units):
        if restart_interval and unit and unit % restart_interval == 0:
            if n_bits >= 8 or at + 1 >= len(data) or data[at] != 0xFF or data[at + 1] != 0xD0 + (unit // restart_interval - 1) % 8:
                return 6
            at, n_bits = at + 2, 0
            level[:] = 0
        for component in component_of_block:
            k = 0
            while k < 64:
                while n_bits < 48 and at < len(data) and not (data[at] == 0xFF and (at + 1 >= len(data) or data[at + 1] != 0)):
                    bits = (bits << np.uint64(8)) | np.uint64(data[at])
                    n_bits += 8
                    at += 2 if data[at] == 0xFF else 1
                next_16 = (bits >> np.uint64(n_bits - 16) if n_bits >= 16 else bits << np.uint64(16 - n_bits)) & np.uint64(0xFFFF)
                entry = dc_codes[component, next_16] if k == 0 else ac_codes[component, next_16]
                size = entry & 15
                if entry == 0 or size > 11 or (k == 0 and entry & 0xF0):
                    return 1
                n_bits -= (entry >> 8) + size
                if n_bits < 0:
                    return 4
                if k == 0:
                    value = np.int64((bits >> np.uint64(n_bits)) & np.uint64((1 << size) - 1))
                    level[component] += value if size == 0 or value >> (size - 1) else value - (1 << size) + 1
                    if abs(level[component]) > dc_limit[component]:
                        return 3
                    k = 1
                elif size == 0 and (entry & 0xF0) != 0xF0:
                    break
                else:
                    k += ((entry >> 4) & 15) + 1
                    if k > 64:
                        return 2
    if n_bits >= 8:
        return 5
    while at + 1 < len(data) and data[at] == 0xFF and data[at + 1] == 0xFF:
        at += 1
    return 0 if at + 1 < len(data) and data[at] == 0xFF and data[at + 1] == 0xD9 else 5
