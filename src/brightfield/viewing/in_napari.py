"""A scene in napari's window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import VERDICT_COLOURS_RGB, Verdict, css
from brightfield.core.layout import REASON_GROUP
from brightfield.core.space import Grid
from brightfield.viewing import colours
from brightfield.viewing.scene import Lines, Scene


def show(scene: Scene) -> Callable[[], None]:
    """Fill a window with a scene; returns what runs it until it is closed. All positions are um, z first, as napari has them."""
    import napari

    viewer = napari.Viewer(title=f"cell {scene.specimen_id}", ndisplay=2)
    for kind, data, options in _layers(scene):
        getattr(viewer, f"add_{kind}")(data, units="um", **options)
    centre = scene.grid.to_um(scene.centre_zyx)
    viewer.dims.set_point(0, float(centre[0]))
    viewer.camera.center = tuple(centre.tolist())
    return napari.run  # type: ignore[no-any-return]


def _layers(scene: Scene) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Kind of layer, data, options. Levels stay on the disk: napari reads what it shows."""
    placed = _placed(scene.grid)
    if scene.image is not None:
        yield "image", list(scene.image.arrays), {"name": "image", "contrast_limits": scene.contrast, "multiscale": True, **placed}
    if scene.labels is not None:
        tints: dict[int | None, str] = {None: "transparent", **dict(colours.label_colours().items())}
        reason = list(scene.labels.sub(REASON_GROUP).arrays)
        yield "labels", list(scene.labels.arrays), {"name": "labels", "colormap": tints, "opacity": 0.5, "multiscale": True, **placed}
        yield "labels", reason, {"name": "reason", "visible": False, "multiscale": True, **placed}
    for extra in scene.extras:
        kind = "labels" if extra.is_codes else "image"
        yield kind, np.asarray(extra.read(extra.grid.window)), {"name": extra.name, "opacity": 0.5, **_placed(extra.grid)}
    classes = colours.label_colours()
    for code, lines in scene.skeleton.items():
        yield "vectors", _vectors(lines, scene.grid), {"name": f"skeleton {code}", "edge_color": classes[code], "edge_width": 0.3}
    red = css(VERDICT_COLOURS_RGB[Verdict.NOT_ON])
    if (not_on := scene.verdicts.get(Verdict.NOT_ON)) is not None:
        yield "vectors", _vectors(not_on, scene.grid), {"name": "NOT ON", "edge_color": red, "edge_width": 0.6}
    points = scene.grid.to_um([mark.at_zyx for mark in scene.marks])
    tints_of = [colours.MARK_COLOURS.get(mark.kind, "#ffffff") for mark in scene.marks]
    yield (
        "points",
        points,
        {"name": "markers", "face_color": tints_of, "size": 3.0, "features": {"what": [mark.name for mark in scene.marks]}},
    )


def _placed(grid: Grid) -> dict[str, Any]:
    return {"scale": grid.voxel_size_zyx_um, "translate": grid.origin_zyx_um}


def _vectors(lines: Lines, grid: Grid) -> NDArray[np.float64]:
    """(n, 2, 3): where an edge begins, and how far it goes, um."""
    begin, end = (grid.to_um(lines.points_zyx[lines.edges[:, side]]) for side in (0, 1))
    return np.stack([begin, end - begin], axis=1)
