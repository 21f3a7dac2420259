from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brightfield.sources import jpeg_walk
from brightfield.sources.jpeg import damage


def _jpeg(pixels: np.ndarray, mode: str = "L", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    seed=st.integers(0, 99),
    flat=st.booleans(),
    options=st.fixed_dictionaries(
        {"mode": st.sampled_from(["L", "RGB", "CMYK"]), "quality": st.integers(1, 100), "optimize": st.booleans()},
        optional={
            "subsampling": st.sampled_from([0, 1, 2]),
            "restart_marker_blocks": st.integers(1, 9),
            "progressive": st.booleans(),
            "comment": st.binary(max_size=30),
        },
    ),
)
def test_every_sound_picture_is_believed(rows: int, columns: int, seed: int, flat: bool, options: dict[str, Any]) -> None:
    pixels = np.where(_noise(rows, columns, seed) > 127, 255, 0).astype(np.uint8) if flat else _noise(rows, columns, seed)
    assert damage(_jpeg(pixels, **options)) is None


SOUND = _jpeg(_noise(128, 128), quality=90)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 50, 300, len(SOUND) // 2, len(SOUND) - 3, len(SOUND) - 2, len(SOUND) - 1])
def test_a_picture_that_ends_early_is_damaged(n: int) -> None:
    assert damage(SOUND[:n]) is not None


def test_fill_bytes_and_what_follows_the_end_do_no_harm() -> None:
    assert damage(SOUND[:-2] + b"\xff\xff\xff\xd9") is None
    assert damage(SOUND + b"anything") is None


def test_data_after_the_last_block_is_damage() -> None:
    assert damage(SOUND[:-2] + b"\x12\x34" + SOUND[-2:]) == "data goes on after the last block"


def test_brightness_out_of_range_is_damage() -> None:
    picture = _jpeg(_noise(64, 64) // 4 + 190, quality=85)
    step = picture.index(b"\xff\xdb") + 5  # of the mean of a block
    assert damage(picture) is None
    assert damage(picture[:step] + b"\xff" + picture[step + 1 :]) == "brightness out of range"


def test_a_header_without_a_size_of_its_blocks_is_damaged() -> None:
    frame = SOUND.index(b"\xff\xc0")
    assert damage(SOUND[: frame + 11] + b"\0" + SOUND[frame + 12 :]) is None  # one component: the size of its blocks says nothing
    colour = _jpeg(_noise(32, 32), "RGB")
    sizes = colour.index(b"\xff\xc0") + 11
    for at in (sizes, sizes + 3, sizes + 6):
        colour = colour[:at] + b"\0" + colour[at + 1 :]
    assert damage(colour) == "the header is damaged"


def test_a_missing_restart_marker_is_damage() -> None:
    picture = _jpeg(_noise(64, 64), restart_marker_blocks=4)
    at = picture.index(b"\xff\xd1", picture.index(b"\xff\xda"))
    assert damage(picture) is None
    assert damage(picture[:at] + picture[at + 2 :]) is not None


@pytest.mark.parametrize("fill", [0x00, 0x55, 0xAA])
def test_an_eighth_overwritten_is_always_seen(fill: int) -> None:
    first, eighth = 700, len(SOUND) // 8
    for start in range(first, len(SOUND) - eighth - 2, 211):
        assert damage(SOUND[:start] + bytes([fill]) * eighth + SOUND[start + eighth :]) is not None


def test_most_pictures_that_lost_some_bytes_are_seen() -> None:
    seen = [damage(SOUND[:at] + SOUND[at + 40 :]) is not None for at in range(700, len(SOUND) - 50, 37)]
    assert np.mean(seen) > 0.8


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, len(SOUND) - 1), patch=st.binary(min_size=1, max_size=8))
def test_no_damage_breaks_the_check(at: int, patch: bytes) -> None:
    assert isinstance(damage(SOUND[:at] + patch + SOUND[at + len(patch) :]), str | None)


def _segments(body: bytes) -> tuple[dict[int, list[bytes]], int]:
    """The segments of a sound header, by marker, and where the data begin."""
    found: dict[int, list[bytes]] = {}
    at = 2
    while 0xDA not in found:
        size = int.from_bytes(body[at + 2 : at + 4])
        found.setdefault(body[at + 1], []).append(body[at + 4 : at + 2 + size])
        at += 2 + size
    return found, at


def _codes(definitions: bytes) -> dict[int, dict[str, int]]:
    """Symbols by bits of their code, by class and number of the table (T.81, annex C)."""
    tables: dict[int, dict[str, int]] = {}
    while definitions:
        code, at, table = 0, 17, tables.setdefault(definitions[0], {})
        for length in range(1, 17):
            for _ in range(definitions[length]):
                table[f"{code:0{length}b}"] = definitions[at]
                code, at = code + 1, at + 1
            code <<= 1
        definitions = definitions[at:]
    return tables


class _SlowWalk:
    """One restart interval, bit by bit (T.81, annex F.2)."""

    def __init__(self, stuffed: bytes) -> None:
        data = stuffed.replace(b"\xff\x00", b"\xff")
        self.end, self.at = 8 * len(data), 0
        self.bits = "".join(f"{byte:08b}" for byte in data + bytes(256))

    def symbol(self, table: dict[str, int], allowed: range) -> int:
        for length in range(1, 17):
            symbol = table.get(self.bits[self.at : self.at + length])
            if symbol is not None and symbol in allowed and symbol & 15 < 12:
                self.at += length
                return symbol
        raise ValueError("a code that does not exist")

    def value(self, size: int) -> int:
        bits = self.bits[self.at : self.at + size]
        self.at += size
        return 0 if size == 0 else int(bits, 2) - (0 if bits[0] == "1" else 2**size - 1)

    def block(self, dc: dict[str, int], ac: dict[str, int], level: int, limit: int) -> int:
        level += self.value(self.symbol(dc, range(12)))
        if abs(level) > limit:
            raise ValueError("brightness out of range")
        k = 1
        while k < 64:
            run, size = divmod(self.symbol(ac, range(256)), 16)
            self.value(size)
            if size == 0 and run != 15:
                break
            k += run + 1
            if k > 64:
                raise ValueError("a block longer than 64 coefficients")
        if self.at > self.end:
            raise ValueError("data ends too early")
        return level


def _slow_walks(body: bytes) -> None:
    """Raise what `damage` should say of a baseline picture with a sound header of Pillow's."""
    segments, at = _segments(body)
    (frame,), (scan,), codes = segments[0xC0], segments[0xDA], _codes(b"".join(segments[0xC4]))
    first_step = {table[0]: table[1] for tables in segments[0xDB] for table in re.findall(b"(?s).{65}", tables)}
    kinds = [frame[i : i + 3] for i in range(6, len(frame), 3)]
    samplings = [(kind[1] >> 4, kind[1] & 15) if len(kinds) > 1 else (1, 1) for kind in kinds]
    limits = [1024 // first_step[kind[2]] + 1 for kind in kinds]
    tables = [(codes[scan[2 + 2 * i] >> 4], codes[0x10 | scan[2 + 2 * i] & 15]) for i in range(len(kinds))]
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    across, down = (8 * max(sampling[axis] for sampling in samplings) for axis in (0, 1))
    left = -(-width // across) * -(-height // down)
    interval = int.from_bytes(segments.get(0xDD, [b""])[0]) or left
    number = 0
    while True:
        marker = re.compile(b"\xff[^\x00]").search(body, at)
        if marker is None:
            raise ValueError("data ends too early")
        walk, levels = _SlowWalk(body[at : marker.start()]), [0] * len(kinds)
        for _ in range(min(interval, left)):
            for i, (horizontal, vertical) in enumerate(samplings):
                for _ in range(horizontal * vertical):
                    levels[i] = walk.block(*tables[i], levels[i], limits[i])
        if walk.end - walk.at >= 8:
            raise ValueError("data goes on after the last block")
        left, at = left - interval, marker.end()
        if left <= 0:
            break
        if body[at - 1] != 0xD0 + number % 8:
            raise ValueError("a restart marker is missing")
        number += 1
    if not re.compile(b"\xff+\xd9").match(body, at - 2):
        raise ValueError("data goes on after the last block")


def _slow_damage(body: bytes) -> str | None:
    try:
        _slow_walks(body)
    except ValueError as error:
        return str(error)
    return None


WHITE_NOISE = _noise(97, 97) // 9
BLURRED = WHITE_NOISE[1:, 1:] + WHITE_NOISE[1:, :-1] + WHITE_NOISE[:-1, 1:] + WHITE_NOISE[:-1, :-1] + 90
SMALL = [
    _jpeg(BLURRED, quality=85),
    _jpeg(BLURRED, quality=80, optimize=True),
    _jpeg(np.where(BLURRED > 150, 255, 0).astype(np.uint8)[:40], quality=100),
    _jpeg(np.full((64, 300), 255, np.uint8)),
    _jpeg(BLURRED[:30], quality=70, restart_marker_blocks=5),
    _jpeg(BLURRED[:33, :50], "RGB", subsampling=2),
    _jpeg(BLURRED[:33, :50], "RGB", subsampling=1, restart_marker_blocks=2, optimize=True),
    _jpeg(BLURRED[:20, :30], "CMYK", quality=95),
]


@pytest.mark.parametrize("picture", SMALL)
def test_the_slow_walk_believes_a_sound_picture_too(picture: bytes) -> None:
    assert damage(picture) is None
    assert _slow_damage(picture) is None


@settings(deadline=None, max_examples=200)
@given(
    picture=st.sampled_from(SMALL),
    where=st.floats(0, 1),
    other=st.floats(0, 1),
    kind=st.sampled_from(["flip", "patch", "delete", "cut", "swap"]),
    patch=st.binary(min_size=1, max_size=8),
)
def test_damage_is_called_what_a_walk_bit_by_bit_calls_it(picture: bytes, where: float, other: float, kind: str, patch: bytes) -> None:
    start = _segments(picture)[1]
    at, to = (start + int(share * (len(picture) - start - 1)) for share in sorted((where, other)))
    damaged = {
        "flip": picture[:at] + bytes([picture[at] ^ 1 << patch[0] % 8]) + picture[at + 1 :],
        "patch": picture[:at] + patch + picture[at + len(patch) :],
        "delete": picture[:at] + picture[at + len(patch) :],
        "cut": picture[:at],
        "swap": picture[:at] + picture[to:] + picture[at:to],
    }[kind]
    assert damage(damaged) == _slow_damage(damaged)


@pytest.mark.parametrize("quality", [60, 75, 85, 90])
@pytest.mark.parametrize("restart", [{}, {"restart_marker_blocks": 600}])
def test_a_sound_grey_picture_needs_no_closer_look(monkeypatch: pytest.MonkeyPatch, quality: int, restart: dict[str, int]) -> None:
    monkeypatch.setattr(jpeg_walk, "_walk", None)
    assert damage(_jpeg(np.tile(BLURRED, (3, 4)), quality=quality, **restart)) is None
    assert damage(_jpeg(np.full((512, 2048), 255, np.uint8), quality=quality)) is None
