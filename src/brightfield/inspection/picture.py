"""The small picture of `brightfield inspect`: the middle plane with the skeleton over it, or the skeleton alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.inspection.look import PICTURE_PX, Inspection

_RED = (220, 40, 40)


def write_picture(found: Inspection, path: Path) -> None:
    """Write a PNG: values stretched from their 1st to their 99th percentile, all planes' nodes drawn into the one plane."""
    canvas = Image.new("RGB", (PICTURE_PX, PICTURE_PX), "white") if found.picture is None else _stretched(found.picture)
    if found.traced is not None:
        scale_um, origin_yx_um = _scale(found, found.traced)
        _draw(canvas, found.traced, scale_um, origin_yx_um)
    canvas.save(path, format="PNG")


def _stretched(plane: NDArray[np.float64]) -> Image.Image:
    low, high = np.percentile(plane, (1, 99))
    grey = np.clip((plane - low) / max(high - low, 1.0) * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _scale(found: Inspection, skeleton: Skeleton) -> tuple[float, tuple[float, float]]:
    """The um that a pixel of the picture is wide, and what its corner is in (y, x) um."""
    if found.grid is not None and found.picture is not None:
        return found.grid.voxel_size_zyx_um[2] * found.picture_factor, (0.0, 0.0)
    low, high = skeleton.bounding_box_um
    side = max(high[1] - low[1], high[2] - low[2], 1e-9) * 1.1
    return side / PICTURE_PX, (low[1] - side / 22, low[2] - side / 22)


def _draw(canvas: Image.Image, skeleton: Skeleton, scale_um: float, origin_yx_um: tuple[float, float]) -> None:
    pen = ImageDraw.Draw(canvas)
    points = (skeleton.position_zyx_um[:, 1:] - origin_yx_um)[:, ::-1] / scale_um
    for child, parent in enumerate(skeleton.parent.tolist()):
        if parent != ROOT:
            pen.line([*points[parent], *points[child]], fill=_RED)
    if skeleton.soma is not None:
        (x, y), radius = points[skeleton.soma], skeleton.radius_um[skeleton.soma] / scale_um
        radius = min(radius, 2 * PICTURE_PX)  # a larger circle leaves the picture on all sides
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], outline=_RED)
