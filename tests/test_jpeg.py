from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brightfield.jpeg import damage


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
