from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brightfield.core.errors import TransferError
from brightfield.sources.allen.picture import decode_picture
from brightfield.sources.http.client import Answer
from brightfield.testing.source import small_picture

GREY = small_picture(1, 64, 80)


def _answer(pixels: np.ndarray, mode: str = "L", form: str = "JPEG", **options: Any) -> Answer:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return Answer(f"image/{form.lower()}", buffer.getvalue())


def _noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def _colours(seed: int = 0) -> np.ndarray:
    """(64, 80, 3) uint8: squares of different colours."""
    return np.kron(np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


def _with(answer: Answer, body: bytes) -> Answer:
    return replace(answer, body=body)


def _luma_by_pillow(body: bytes) -> np.ndarray:
    """The same by another build of the library behind another wrapper."""
    with Image.open(io.BytesIO(body)) as picture:
        picture.draft("L", None)
        return np.asarray(picture.convert("L"))


# ---------------------------------------------------------------------------------------------------------------- sound pictures


@settings(deadline=None, max_examples=150)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    seed=st.integers(0, 99),
    flat=st.booleans(),
    options=st.fixed_dictionaries(
        {"mode": st.sampled_from(["L", "RGB"]), "quality": st.integers(1, 100), "optimize": st.booleans()},
        optional={
            "subsampling": st.sampled_from([0, 1, 2]),
            "restart_marker_blocks": st.integers(1, 9),
            "progressive": st.booleans(),
            "comment": st.binary(max_size=30),
        },
    ),
)
def test_every_sound_picture_is_believed_and_has_the_pixels_that_pillow_finds(
    rows: int, columns: int, seed: int, flat: bool, options: dict[str, Any]
) -> None:
    pixels = np.where(_noise(rows, columns, seed) > 127, 255, 0).astype(np.uint8) if flat else _noise(rows, columns, seed)
    picture = _answer(pixels, **options)
    np.testing.assert_array_equal(decode_picture(picture, (rows, columns)), _luma_by_pillow(picture.body))


@pytest.mark.parametrize("quality", [75, 85, 100])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"keep_rgb": True}], ids=str
)
def test_colours_give_their_luma(quality: int, options: dict[str, Any]) -> None:
    picture = _answer(_colours(), "RGB", quality=quality, **options)
    np.testing.assert_array_equal(decode_picture(picture, (64, 80)), _luma_by_pillow(picture.body))


def test_four_inks_give_the_luma_of_their_colours() -> None:
    picture = _answer(_colours(), "CMYK", quality=95, subsampling=0)
    assert np.abs(decode_picture(picture, (64, 80)).astype(int) - _luma_by_pillow(picture.body)).max() <= 1


def test_a_sampling_of_colours_that_the_library_does_not_know_is_refused_with_that_reason() -> None:
    with pytest.raises(TransferError, match="subsampling"):
        decode_picture(_answer(_colours(), "CMYK", subsampling=2), (64, 80))


@pytest.mark.parametrize("quality", [75, 100])
def test_a_grey_picture_in_colour_is_the_same_picture(quality: int) -> None:
    grey, colour = (decode_picture(_answer(GREY, mode, quality=quality), GREY.shape) for mode in ("L", "RGB"))
    np.testing.assert_array_equal(grey, colour)


def test_a_picture_without_loss_is_itself() -> None:
    np.testing.assert_array_equal(decode_picture(_answer(GREY, form="PNG"), GREY.shape), GREY)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_one_row_or_column_too_many_is_cut_off(rows: int, columns: int, form: str) -> None:
    picture = _answer(GREY, form=form)
    cut = decode_picture(picture, (64 - rows, 80 - columns))
    np.testing.assert_array_equal(cut, decode_picture(picture, GREY.shape)[: 64 - rows, : 80 - columns])
    assert cut.flags.c_contiguous


def test_fill_bytes_and_what_follows_the_end_do_no_harm() -> None:
    picture = _answer(GREY)
    for body in (picture.body[:-2] + b"\xff\xff\xff\xd9", picture.body + b"anything"):
        np.testing.assert_array_equal(decode_picture(_with(picture, body), GREY.shape), decode_picture(picture, GREY.shape))


# ---------------------------------------------------------------------------------------------------------------- what is none


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(65, 80), (64, 81), (62, 80), (64, 78)])
def test_other_sizes_are_refused(shape: tuple[int, int], form: str) -> None:
    with pytest.raises(TransferError, match=f"expected a picture of {shape[1]} x {shape[0]} px, found 80 x 64 px"):
        decode_picture(_answer(GREY, form=form), shape)


def test_a_picture_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = _answer(GREY)
    size = picture.body.index(b"\xff\xc0") + 5
    monkeypatch.setattr("simplejpeg.decode_jpeg", None)
    with pytest.raises(TransferError, match="found 65000 x 65000 px"):
        decode_picture(_with(picture, picture.body[:size] + b"\xfd\xe8\xfd\xe8" + picture.body[size + 4 :]), GREY.shape)


@pytest.mark.parametrize("kind", ["text/html", "application/xml", ""])
def test_what_does_not_call_itself_a_picture_is_none(kind: str) -> None:
    with pytest.raises(TransferError, match="expected a picture, found"):
        decode_picture(replace(_answer(GREY), content_type=kind), GREY.shape)


@pytest.mark.parametrize("body", [b"", b"<html>", b"GIF89a", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_inside_is_none(body: bytes) -> None:
    with pytest.raises(TransferError, match="cut short or damaged"):
        decode_picture(Answer("image/jpeg", body), GREY.shape)


# ---------------------------------------------------------------------------------------------------------------- damage


BASELINE = {
    "grey noise": _answer(_noise(128, 128), quality=90),
    "grey": _answer(small_picture(1, 400, 400), quality=75),
    "grey, best": _answer(small_picture(1, 200, 200), quality=100),
    "in colour": _answer(small_picture(1, 400, 400), "RGB", quality=75),
    "in colour, best": _answer(small_picture(1, 200, 200), "RGB", quality=100, subsampling=0),
    "with restarts": _answer(_noise(96, 96), restart_marker_blocks=4),
}
PROGRESSIVE = {
    "progressive": _answer(small_picture(1, 400, 400), quality=75, progressive=True),
    "progressive, in colour": _answer(small_picture(1, 200, 200), "RGB", quality=90, progressive=True),
}
KINDS = BASELINE | PROGRESSIVE


def _refuses(picture: Answer, body: bytes) -> bool:
    """Whether another body is refused, as it must be or not at all."""
    with Image.open(io.BytesIO(picture.body)) as whole:
        shape = (whole.height, whole.width)
    try:
        decode_picture(_with(picture, body), shape)
    except TransferError:
        return True
    return False


def _data_at(body: bytes) -> int:
    """Where the entropy-coded data of the first scan begin."""
    scan = body.index(b"\xff\xda")
    return scan + 2 + int.from_bytes(body[scan + 2 : scan + 4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_cut_anywhere_is_refused(kind: str) -> None:
    picture = KINDS[kind]
    n = len(picture.body)
    for end in {*range(0, n, max(1, n // 400)), *range(n - 20, n)}:
        assert _refuses(picture, picture.body[:end]), end


def test_a_picture_without_loss_that_is_cut_is_refused() -> None:
    picture = _answer(_noise(64, 80), form="PNG")
    for end in range(0, len(picture.body) - 30, 97):
        assert _refuses(picture, picture.body[:end]), end


def _overwritten(body: bytes, n: int, fill: bytes) -> Iterator[bytes]:
    """The picture with `n` bytes of its data replaced by `fill`, at 60 places."""
    first, last = _data_at(body), len(body) - n - 2
    for start in range(first, last, max(1, (last - first) // 60)):
        yield body[:start] + fill * n + body[start + n :]


@pytest.mark.parametrize("fill", [b"\x00", b"\x55", b"\xaa"])
@pytest.mark.parametrize("kind", BASELINE)
def test_a_lost_eighth_or_disk_sector_is_always_seen(kind: str, fill: bytes) -> None:
    picture = BASELINE[kind]
    for n in (512, len(picture.body) // 8):
        assert all(_refuses(picture, body) for body in _overwritten(picture.body, n, fill))


@pytest.mark.parametrize("kind", PROGRESSIVE)
def test_a_lost_eighth_or_disk_sector_of_a_progressive_picture_is_mostly_seen(kind: str) -> None:
    picture = PROGRESSIVE[kind]
    for n in (512, len(picture.body) // 8):
        assert np.mean([_refuses(picture, body) for body in _overwritten(picture.body, n, b"\0")]) > 0.6


def test_most_pictures_that_lost_some_bytes_are_seen() -> None:
    picture = BASELINE["grey noise"]
    body = picture.body
    seen = [_refuses(picture, body[:at] + body[at + 40 :]) for at in range(700, len(body) - 50, 37)]
    assert np.mean(seen) > 0.8


def test_data_after_the_last_block_and_a_missing_restart_are_damage() -> None:
    grey, restarts = BASELINE["grey noise"], BASELINE["with restarts"]
    assert _refuses(grey, grey.body[:-2] + bytes(range(16)) + grey.body[-2:])
    at = restarts.body.index(b"\xff\xd1", _data_at(restarts.body))
    assert _refuses(restarts, restarts.body[:at] + restarts.body[at + 2 :])


def test_the_reason_is_what_the_library_says() -> None:
    body = BASELINE["grey"].body
    with pytest.raises(TransferError, match=r"damaged: Corrupt JPEG data: premature end of data segment$"):
        decode_picture(Answer("image/jpeg", body[:-999] + body[-2:]), (400, 400))


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(sorted(KINDS)), where=st.floats(0, 1), in_header=st.booleans(), patch=st.binary(min_size=1, max_size=8))
def test_no_damage_raises_anything_else(kind: str, where: float, in_header: bool, patch: bytes) -> None:
    picture = KINDS[kind]
    at = int(where * (_data_at(picture.body) if in_header else len(picture.body)))
    _refuses(picture, picture.body[:at] + patch + picture.body[at + len(patch) :])
