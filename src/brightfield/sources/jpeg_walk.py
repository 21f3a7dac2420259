"""A walk along the entropy-coded data of a baseline JPEG (ITU-T T.81, annex F): from code to code, transforming nothing.

Two walks share the work. `_walk` goes code by code and names what it finds. `_is_sound` takes several codes at a time and is there for the
usual case, an undamaged grey picture: what it does not believe, `_walk` judges.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

PADDING = 256
"""Bytes that the data must have behind their end, more than a block can be long: a walk that runs over the end stays in the array."""

_PEEK = 16  # bits of the longest code
_LARGEST = 11  # bits of a value
_WINDOW, _LONGEST = 64, 27  # bits that one look at the data gives, and of the longest code with its value
_SHORT = 13  # bits that are looked up at once: a table of this many stays in the fastest cache
_AT_ONCE = 4  # steps of up to `_SHORT` bits between two looks at the data
_SAFE = 96  # bits before a stop that is out of reach of four hops, and of the codes up to where they end and one more
_WORTH_HOPPING = 512  # bits: less are walked at once
_NEVER = 1 << 62
_Int = int | np.signedinteger  # numba knows but one
_COMPLAINTS = (
    "",
    "a code that does not exist",
    "a block longer than 64 coefficients",
    "brightness out of range",
    "data ends too early",
    "data goes on after the last block",
)


def complaint(
    data: NDArray[np.uint8],
    n_bytes: int,
    n_units: int,
    blocks: NDArray[np.int64],
    codes: tuple[tuple[bytes, bytes], ...],
    limit: NDArray[np.int64],
) -> str:
    """What is wrong with `n_units` units whose codes take up `n_bytes` of `data`, which is padded; empty for nothing.

    blocks: the component of each block of a unit. By component: codes, the definitions of its DC and AC tables; limit, of its brightness.
    """
    words, end = _words(data, n_bytes), 8 * n_bytes
    if len(blocks) == 1 and end >= _WORTH_HOPPING:
        dc, ac = codes[0]
        if _is_sound(words, end, n_units, (_hop_table(dc, ac), code_table(dc), code_table(ac)), limit[0]):
            return ""
    return _COMPLAINTS[_walk(words, end, n_units, blocks, *_tables(codes), limit)]


def _words(data: NDArray[np.uint8], n_bytes: int) -> NDArray[np.uint64]:
    """The data and its padding as numbers of eight bytes, the first one highest."""
    return data[: (n_bytes + PADDING) // 8 * 8].view(">u8").astype(np.uint64)


@lru_cache(64)
def code_table(definition: bytes) -> NDArray[np.uint16]:
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
    codes, peek = code_table(definition).astype(np.int64), np.arange(1 << _SHORT)
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
    dc = np.stack([code_table(dc) for dc, _ in definitions])
    return dc, np.stack([code_table(ac) for _, ac in definitions]), np.stack([_run_table(ac) for _, ac in definitions])


@lru_cache(64)
def _hop_table(dc: bytes, ac: bytes) -> NDArray[np.uint8]:
    """See `_hops`."""
    return _hops(code_table(dc), code_table(ac))


@njit(cache=True, nogil=True)
def _walk(  # noqa: C901  (one loop over bits: its state in one place)
    words: NDArray[np.uint64],
    end: int,
    n_units: int,
    component_of_block: NDArray[np.int64],
    dc_codes: NDArray[np.uint16],
    ac_codes: NDArray[np.uint16],
    ac_runs: NDArray[np.uint16],
    dc_limit: NDArray[np.int64],
) -> int:
    """Follow the codes of `n_units`, which take up `end` bits of `words`; returns an index into `_COMPLAINTS`."""
    at: _Int = np.int64(0)
    level = np.zeros(len(dc_limit), np.int64)
    for _ in range(n_units):
        for component in component_of_block:
            window = _bits(words, at)
            used, difference = _dc(window, dc_codes[component])
            if used == 0:
                return 1
            level[component] += difference
            if abs(level[component]) > dc_limit[component]:
                return 3
            at, fresh, k, window = at + used, used, np.int64(1), window << np.uint64(used)
            while k < 64:
                if fresh > _WINDOW - _LONGEST:
                    window, fresh = _bits(words, at), np.int64(0)
                run = np.int64(ac_runs[component, window >> np.uint64(64 - _SHORT)])
                if run and k + (run & 0x7F) < 64:
                    used = run >> 8
                    at, fresh, k, window = at + used, fresh + used, k + (run & 0x7F), window << np.uint64(used)
                    if run & 0x80:
                        break
                    continue
                used, gain = _ac(window, ac_codes[component])
                if used == 0:
                    return 1
                at, fresh, window = at + used, fresh + used, window << np.uint64(used)
                if gain == 0:
                    break
                k += gain
                if k > 64:
                    return 2
            if at > end:
                return 4
    return 5 if end - at >= 8 else 0


@njit(cache=True, nogil=True, forceinline=True)
def _bits(words: NDArray[np.uint64], at: _Int) -> np.uint64:
    """The 64 bits from bit `at` on, the first one highest."""
    word, shift = np.uint64(at) >> np.uint64(6), np.uint64(at) & np.uint64(63)
    return np.uint64(words[word] << shift | words[word + np.uint64(1)] >> np.uint64(1) >> (shift ^ np.uint64(63)))


@njit(cache=True, nogil=True, forceinline=True)
def _dc(window: np.uint64, codes: NDArray[np.uint16]) -> tuple[_Int, _Int]:
    """Bits of the DC code that comes next, with its value, and the value; 0 bits where there is none or it is not allowed."""
    entry = np.int64(codes[window >> np.uint64(48)])
    length, size = entry >> 8, entry & 15
    if size > _LARGEST or entry & 0xF0:
        return np.int64(0), np.int64(0)
    value = np.int64((window << np.uint64(length)) >> np.uint64(48)) >> (16 - size)
    return length + size, value if size == 0 or value >> (size - 1) else value - (1 << size) + 1


@njit(cache=True, nogil=True, forceinline=True)
def _ac(window: np.uint64, codes: NDArray[np.uint16]) -> tuple[_Int, _Int]:
    """Bits of the AC code that comes next, with its value, and coefficients, 0 if it ends the block; 0 bits as for `_dc`."""
    entry = np.int64(codes[window >> np.uint64(48)])
    size, run = entry & 15, entry >> 4 & 15
    if size > _LARGEST:
        return np.int64(0), np.int64(0)
    return (entry >> 8) + size, 0 if size == 0 and run != 15 else run + 1


@njit(cache=True, nogil=True)
def _hops(dc_codes: NDArray[np.uint16], ac_codes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """For each 13 bits that may come next within a block, what all codes that end within them come to: see `_hop`.

    Its four numbers are in four parts, of a byte each: so all of it stays in the fastest cache.
    """
    table = np.zeros(4 << _SHORT, np.uint8)
    for peek in range(1 << _SHORT):
        hop = _hop(np.uint64(peek) << np.uint64(64 - _SHORT), dc_codes, ac_codes)
        for part in range(4):
            table[part << _SHORT | peek] = hop[part]
    return table


@njit(cache=True, nogil=True)
def _hop(window: np.uint64, dc_codes: NDArray[np.uint16], ac_codes: NDArray[np.uint16]) -> tuple[_Int, _Int, _Int, _Int]:
    """Bits; coefficients of this block; coefficients of the next one if this one ends, or 0; and the next one's DC difference.

    No hop stops between the end of a block and the next DC code: whoever hops is always within a block. 0 bits: no hop is possible.
    """
    bits: _Int = 0
    gained: _Int = 0
    in_next: _Int = 0
    difference: _Int = 0
    while True:
        used, gain = _ac(window << np.uint64(bits), ac_codes)
        used_dc: _Int = 0
        value: _Int = 0
        if used and gain == 0:
            used_dc, value = _dc(window << np.uint64(bits + used), dc_codes)
            if in_next or used_dc == 0 or not -128 <= value < 128:
                break
        k = gain + (in_next or gained)
        if used == 0 or bits + used + used_dc > _SHORT or k >= 64:
            break
        if gain == 0:
            in_next, difference = 1, value
        elif in_next:
            in_next = k
        else:
            gained = k
        bits += used + used_dc
    return bits | (in_next > 0) << 6, gained, in_next, difference


class _Place(NamedTuple):
    """How far a quick walk is: always within a block, its DC code passed."""

    at: _Int  # bit; negative once a code was not allowed, or the walk given up
    k: _Int  # coefficients of the block so far
    blocks: _Int  # that ended
    level: _Int  # brightness
    low: _Int  # extremes of the level
    high: _Int


_NOWHERE = _Place(-1, 0, 0, 0, 0, 0)
_Tables = tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint16]]  # hops, DC codes, AC codes


@njit(cache=True, nogil=True)
def _is_sound(words: NDArray[np.uint64], end: int, n_blocks: int, tables: _Tables, limit: int) -> bool:
    """Whether `_walk` would not complain about these blocks of one component; False where only it can tell.

    All that is checked on the way is what the next step rests on. The rest can wait: the position only grows, and the extremes of the level
    are kept.
    """
    place = _advance(words, tables, _step_dc(words, tables, _Place(0, 0, 0, 0, 0, 0)), end - _SAFE)
    if place.blocks >= n_blocks:  # the last one ends later in sound data
        return False
    while 0 <= place.at <= end and place.blocks < n_blocks:
        place = _step(words, tables, place, n_blocks)
    return bool(place.at >= 0 and 0 <= end - place.at < 8 and -limit <= place.low and place.high <= limit)


@njit(cache=True, nogil=True)
def _advance(words: NDArray[np.uint64], tables: _Tables, place: _Place, stop: _Int) -> _Place:
    """Hop on to `stop` or just beyond."""
    start, n_stuck = place.at, 0
    while 0 <= place.at < stop:
        hops, fits, on = _hop_on(words, tables, place)
        place = on if hops else _closely(words, tables, place, on, fits)
        n_stuck += not hops
        if _is_tiresome(n_stuck, place.at - start):
            return _NOWHERE
    return place


@njit(cache=True, nogil=True, forceinline=True)
def _is_tiresome(n_stuck: int, n_bits: _Int) -> bool:
    """Whether hops get stuck so often (long codes, full blocks: noise of high quality; or damage) that `_walk` is faster."""
    return bool(n_stuck << 8 > n_bits + (1 << 15))


@njit(cache=True, nogil=True)
def _closely(words: NDArray[np.uint64], tables: _Tables, before: _Place, hopped: _Place, fits: bool) -> _Place:
    """On from where `_hop_on` got stuck: past a code that is too long for it, or past the block that got full."""
    if fits:
        return _step(words, tables, hopped, _NEVER)
    place = before
    while place.at >= 0 and place.blocks == before.blocks:
        place = _step(words, tables, place, _NEVER)
    return place


@njit(cache=True, nogil=True, forceinline=True)
def _hop_on(words: NDArray[np.uint64], tables: _Tables, place: _Place) -> tuple[bool, bool, _Place]:
    """Four hops in a row: whether all went well, whether at least no block got full, and where they end (before one that is impossible).

    No branches: they would be as unforeseeable as the data.
    """
    hops = tables[0]
    at, k, blocks, level, low, high = place
    window, passed, used, seen = _bits(words, at), np.int64(0), np.int64(0), np.int64(0)
    for _ in range(_AT_ONCE):
        peek = window >> np.uint64(64 - _SHORT)
        passed = np.int64(hops[peek])
        window, used = window << np.uint64(passed & 63), used + passed
        k += hops[peek + np.uint64(1 << _SHORT)]
        seen |= k
        k = np.int64(hops[peek + np.uint64(2 << _SHORT)]) or k
        level += np.int8(hops[peek + np.uint64(3 << _SHORT)])
        low, high = min(low, level), max(high, level)
    return bool(passed != 0 and seen < 64), bool(seen < 64), _Place(at + (used & 63), k, blocks + (used >> 6), level, low, high)


@njit(cache=True, nogil=True)
def _step(words: NDArray[np.uint64], tables: _Tables, place: _Place, n_blocks: int) -> _Place:
    """One AC code on, and past the next DC code if it ends a block that is not the last of `n_blocks`."""
    at, k, blocks, level, low, high = place
    used, gain = _ac(_bits(words, at), tables[2])
    k = k + gain if gain else 64
    if used == 0 or k > 64:
        return _NOWHERE
    place = _Place(at + used, k, blocks + (k == 64), level, low, high)
    return _step_dc(words, tables, place) if k == 64 and place.blocks < n_blocks else place


@njit(cache=True, nogil=True)
def _step_dc(words: NDArray[np.uint64], tables: _Tables, place: _Place) -> _Place:
    used, difference = _dc(_bits(words, place.at), tables[1])
    level = place.level + difference
    at = place.at + used if used else np.int64(-1)
    return _Place(at, np.int64(1), place.blocks, level, min(place.low, level), max(place.high, level))
