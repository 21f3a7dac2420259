"""Is a JPEG sound from its first bit to its last? Decoders do not say: they paint over damage and go on.

Pillow raises only where data ends too early; libjpeg knows more, as warnings that nobody sees. This walks the entropy-coded data without
transforming it (ITU-T T.81, annex F): every code must exist, every block end where blocks end, brightness stay in range, and the data be
used up exactly when the picture is complete. Random damage rarely survives that; a changed value that leaves all codes valid does, which
only a checksum from the source could tell.
"""

from __future__ import annotations

import re
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
_LARGEST = 11  # bits of a value
_WINDOW, _LONGEST = 57, 27  # bits that one load of the data gives for sure, and of the longest code with its value
_SHORT = 13  # bits that are looked up at once: a table of this many stays in the fastest cache
_MARKER = re.compile(rb"\xff[^\x00]")
_END = re.compile(rb"\xff+\xd9")
_PADDING = 256  # bytes, more than a block can be long: a walk that runs over the end stays in the array
_COMPLAINTS = (
    "",
    "a code that does not exist",
    "a block longer than 64 coefficients",
    "brightness out of range",
    "data ends too early",
    "data goes on after the last block",
)


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
    except (IndexError, KeyError, ValueError):
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
            _code_table(definition)  # raises for what is no table, used or not
            header.codes[segment[0]] = definition
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


@lru_cache(64)
def _run_table(definition: bytes) -> NDArray[np.uint16]:
    """For each 13 bits that may come next, what all codes (with their values) that end within them come to.

    Bits << 8 | whether the block ends << 7 | coefficients; 0 where not even one code does, or one is not allowed.
    """
    codes, peek = _code_table(definition).astype(np.int64), np.arange(1 << _SHORT)
    bits, coefficients, ended, going = (np.zeros(1 << _SHORT, np.int64) for _ in range(4))
    going += 1
    while going.any():
        entry = codes[(peek << bits & (1 << _SHORT) - 1) << _PEEK - _SHORT]
        size, run = entry & 15, entry >> 4 & 15
        after, end = bits + (entry >> 8) + size, (size == 0) & (run != 15)
        going &= (entry != 0) & (size <= _LARGEST) & (after <= _SHORT) & (ended == 0)
        bits, ended = np.where(going, after, bits), ended | going & end
        coefficients += going * ~end * (run + 1)
    return np.where(coefficients < 64, bits << 8 | ended << 7 | coefficients, 0).astype(np.uint16)


@lru_cache(64)
def _tables(definitions: tuple[tuple[bytes, bytes], ...]) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
    """By component: DC codes, AC codes and AC runs."""
    dc = np.stack([_code_table(dc) for dc, _ in definitions])
    return dc, np.stack([_code_table(ac) for _, ac in definitions]), np.stack([_run_table(ac) for _, ac in definitions])


def _data_damage(body: bytes, header: _Header) -> str | None:
    samplings = [header.components[number][:2] for number, _, _ in header.scan]
    across, down = (max(values) for values in zip(*samplings, strict=True))
    if len(samplings) == 1:  # a single component is not interleaved: its unit is one block
        samplings, across, down = [(1, 1)], 1, 1
    n_units = -(-header.width // (8 * across)) * -(-header.height // (8 * down))
    blocks = np.array([i for i, (h, v) in enumerate(samplings) for _ in range(h * v)])
    tables = _tables(tuple((header.codes[dc], header.codes[0x10 | ac]) for _, dc, ac in header.scan))
    limit = np.array([1024 // max(1, header.quantiser_dc[header.components[number][2]]) + 1 for number, _, _ in header.scan])
    at, interval = header.data_at, header.restart_interval or n_units
    for number, first in enumerate(range(0, n_units, interval)):
        marker = _MARKER.search(body, at)
        if marker is None:
            return "data ends too early"
        data, n_bytes = _unstuffed(np.frombuffer(body, np.uint8), at, marker.start())
        last = first + interval >= n_units
        if complaint := _walk(data, 8 * n_bytes, min(interval, n_units - first), blocks, *tables, limit):
            return _COMPLAINTS[complaint]
        if not last and body[marker.end() - 1] != 0xD0 + number % 8:
            return "a restart marker is missing"
        at = marker.start() if last else marker.end()
    return None if _END.match(body, at) else "data goes on after the last block"


@njit(cache=True, nogil=True)
def _unstuffed(body: NDArray[np.uint8], start: int, stop: int) -> tuple[NDArray[np.uint8], int]:
    """The data without the zero that follows each 255, padded, and its bytes without the padding."""
    data, n_bytes, previous = np.empty(stop - start + _PADDING, np.uint8), 0, 0
    for byte in body[start:stop]:
        data[n_bytes] = byte
        n_bytes += not (byte == 0 and previous == 0xFF)
        previous = byte
    data[n_bytes : n_bytes + _PADDING] = 0
    return data, n_bytes


@njit(cache=True, nogil=True)
def _walk(  # noqa: C901  (one loop over bits: a call per code would double its time)
    data: NDArray[np.uint8],
    end: int,
    n_units: int,
    component_of_block: NDArray[np.int64],
    dc_codes: NDArray[np.uint16],
    ac_codes: NDArray[np.uint16],
    ac_runs: NDArray[np.uint16],
    dc_limit: NDArray[np.int64],
) -> int:
    """Follow the codes of `n_units`, which take up `end` bits of `data`; returns an index into `_COMPLAINTS`."""
    at = np.int64(0)
    level = np.zeros(len(dc_limit), np.int64)
    for _ in range(n_units):
        for component in component_of_block:
            window = _bits(data, at)
            entry = np.int64(dc_codes[component, window >> np.uint64(48)])
            length, size = entry >> 8, entry & 15
            if entry == 0 or size > _LARGEST or entry & 0xF0:
                return 1
            value = np.int64((window << np.uint64(length)) >> np.uint64(48)) >> (16 - size)
            level[component] += value if size == 0 or value >> (size - 1) else value - (1 << size) + 1
            if abs(level[component]) > dc_limit[component]:
                return 3
            at, k = at + length + size, np.int64(1)
            fresh = np.int64(_WINDOW)
            while k < 64:
                if fresh >= _WINDOW - _LONGEST:
                    window, fresh = _bits(data, at), np.int64(0)
                run = np.int64(ac_runs[component, window >> np.uint64(64 - _SHORT)])
                if run and k + (run & 0x7F) < 64:
                    used = run >> 8
                    at, fresh, k, window = at + used, fresh + used, k + (run & 0x7F), window << np.uint64(used)
                    if run & 0x80:
                        break
                    continue
                entry = np.int64(ac_codes[component, window >> np.uint64(48)])
                size = entry & 15
                if entry == 0 or size > _LARGEST:
                    return 1
                used = (entry >> 8) + size
                at, fresh, window = at + used, fresh + used, window << np.uint64(used)
                if size == 0 and (entry & 0xF0) != 0xF0:
                    break
                k += ((entry >> 4) & 15) + 1
                if k > 64:
                    return 2
            if at > end:
                return 4
    return 5 if end - at >= 8 else 0


@njit(cache=True, nogil=True, inline="always")
def _bits(data: NDArray[np.uint8], at: np.int64) -> np.uint64:
    """At least 57 bits from bit `at` on, the first one highest."""
    byte = np.uint64(at >> 3)
    window = np.uint64(0)
    for i in range(8):
        window = window << np.uint64(8) | np.uint64(data[byte + np.uint64(i)])
    return window << np.uint64(at & 7)
