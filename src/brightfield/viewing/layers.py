"""A scene as Neuroglancer's state: layers, colours, a place to begin.

Its coordinates are voxels of the finest level, x first; a voxel begins at its index. OME-Zarr puts the centre of voxel 0 at its
translation, so every source is moved by the same length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import neuroglancer
import numpy as np

from brightfield.core.codes import LABEL_NAMES, VERDICT_COLOURS_RGB, Label, Verdict, css
from brightfield.core.layout import REASON_GROUP
from brightfield.core.space import Grid, Triple
from brightfield.viewing import colours
from brightfield.viewing.extra import Extra
from brightfield.viewing.scene import Scene

VERDICT_CODES = {verdict: code for code, verdict in enumerate(Verdict, start=1)}
SEGMENT_NAMES = {**{int(label): name for label, name in LABEL_NAMES.items()}, int(Label.UNKNOWN): "unknown"}
_HIDDEN = {"reason"}
_LINE_PX = 1.5
_CLASSES = [int(label) for label in LABEL_NAMES]


def state_of(scene: Scene, files_url: str) -> neuroglancer.ViewerState:
    """The state that shows a scene. files_url: where the shelves of the cell are served: image, labels, skeleton, alignment, extra."""
    state = neuroglancer.ViewerState()
    state.title = f"cell {scene.specimen_id}"
    state.dimensions = _space(scene.grid, "xyz")
    state.position = _xyz(scene.centre_zyx)
    state.cross_section_scale = 0.5
    state.projection_scale = 1.2 * scene.extent_vox
    state.cross_section_background_color = colours.PAPER
    state.projection_background_color = "#20252b"
    state.layout = "4panel"
    state.show_axis_lines = False
    for name, layer in _layers(scene, files_url):
        state.layers.append(name=name, layer=layer, visible=name not in _HIDDEN)
    return state


def _layers(scene: Scene, url: str) -> Iterator[tuple[str, Any]]:
    if scene.image is not None:
        yield "image", _image(scene, url)
    if scene.labels is not None:
        yield from _label_layers(scene, url)
    for number, extra in enumerate(scene.extras):
        yield extra.name, _extra(extra, scene.grid, url, f"extra{number}")
    yield "skeleton", _lines(f"{url}/skeleton", sorted(scene.skeleton), colours.label_colours())
    tints = {VERDICT_CODES[verdict]: css(colour) for verdict, colour in VERDICT_COLOURS_RGB.items()}
    yield "alignment", _lines(f"{url}/alignment", [VERDICT_CODES[Verdict.NOT_ON]], tints, width=2 * _LINE_PX)
    yield "markers", _marks(scene)
    if scene.place is not None:
        yield "place", _place(scene, *scene.place)


def _label_layers(scene: Scene, url: str) -> Iterator[tuple[str, Any]]:
    source = _source(scene.grid, f"{url}/labels/", scene.grid)
    if scene.label_kind == "distance":
        yield "labels", neuroglancer.ImageLayer(source=source, shader=colours.DISTANCE_SHADER, opacity=1.0)
    else:
        yield "labels", _codes(source, url, _CLASSES, colours.LABEL_ALPHA)
        yield "unknown", _codes(source, url, [int(Label.UNKNOWN)], colours.UNKNOWN_ALPHA)
    source = _source(scene.grid, f"{url}/labels/{REASON_GROUP}/", scene.grid)
    yield "reason", neuroglancer.ImageLayer(source=source, shader=colours.reason_shader(), opacity=0.5)


def _image(scene: Scene, url: str) -> neuroglancer.ImageLayer:
    source = _source(scene.grid, f"{url}/image/", scene.grid)
    return neuroglancer.ImageLayer(source=source, shader=colours.IMAGE_SHADER, shader_controls=_range(*scene.contrast), opacity=1.0)


def _range(low: float, high: float) -> dict[str, Any]:
    return {"normalized": {"range": [low, high]}}


def _codes(source: neuroglancer.LayerDataSource, url: str, shown: list[int], alpha: float) -> neuroglancer.SegmentationLayer:
    names = neuroglancer.LayerDataSource(f"precomputed://{url}/skeleton/names")
    return _segments([source, names], shown, colours.label_colours(), selected_alpha=alpha)


def _lines(url: str, shown: list[int], tints: dict[int, str], width: float = _LINE_PX) -> neuroglancer.SegmentationLayer:
    layer = _segments(neuroglancer.LayerDataSource(f"precomputed://{url}"), shown, tints)
    layer.skeleton_rendering.mode2d = layer.skeleton_rendering.mode3d = "lines"
    layer.skeleton_rendering.line_width2d = layer.skeleton_rendering.line_width3d = width
    return layer


def _segments(source: Any, shown: list[int], tints: dict[int, str], **options: Any) -> neuroglancer.SegmentationLayer:
    """A layer with these segments shown; without any, with the others hidden all the same."""
    layer = neuroglancer.SegmentationLayer(source=source, segment_colors=tints, **options)
    layer.segments = shown
    layer.ignore_null_visible_set = False
    layer.hide_segment_zero = True
    return layer


def _extra(extra: Extra, base: Grid, url: str, shelf: str) -> Any:
    source = _read_by_us(extra, base) if extra.store is None else _source(extra.grid, f"{url}/{shelf}/", base)
    if extra.is_codes:
        return _codes(source, url, _CLASSES, colours.LABEL_ALPHA)
    return neuroglancer.ImageLayer(source=source, shader=colours.INTENSITY_SHADER, shader_controls=_range(0.0, extra.highest), opacity=0.6)


def _read_by_us(extra: Extra, base: Grid) -> neuroglancer.LayerDataSource:
    """A source whose voxels this process reads: of a file that a browser cannot."""
    kind = "segmentation" if extra.is_codes else "image"
    space = neuroglancer.CoordinateSpace(names=list("zyx"), units="m", scales=np.multiply(extra.grid.voxel_size_zyx_um, 1e-6))
    low_um = np.subtract(extra.grid.extent_zyx_um[0], base.extent_zyx_um[0])
    offset = np.rint(low_um / extra.grid.voxel_size_zyx_um).astype(int)
    return neuroglancer.LayerDataSource(neuroglancer.LocalVolume(extra, dimensions=space, voxel_offset=offset, volume_type=kind))


def _source(own: Grid, url: str, base: Grid) -> neuroglancer.LayerDataSource:
    """A volume that says where it is, moved so that voxel 0 of `base` begins at 0."""
    shift = -np.array(base.extent_zyx_um[0]) / own.voxel_size_zyx_um
    matrix = np.concatenate([np.eye(3), shift[:, None]], axis=1)
    return neuroglancer.LayerDataSource(
        url=f"zarr://{url}", transform=neuroglancer.CoordinateSpaceTransform(output_dimensions=_space(own, "zyx"), matrix=matrix)
    )


def _space(grid: Grid, axes: str) -> neuroglancer.CoordinateSpace:
    size = dict(zip("zyx", grid.voxel_size_zyx_um, strict=True))
    return neuroglancer.CoordinateSpace(names=list(axes), units="m", scales=[size[axis] * 1e-6 for axis in axes])


def _marks(scene: Scene) -> neuroglancer.LocalAnnotationLayer:
    spec = neuroglancer.AnnotationPropertySpec(id="colour", type="rgb", default="#ffffff")
    points = [
        neuroglancer.PointAnnotation(
            id=str(k), point=_xyz(mark.at_zyx), description=mark.name, props=[colours.MARK_COLOURS.get(mark.kind, "#ffffff")]
        )
        for k, mark in enumerate(scene.marks)
    ]
    return neuroglancer.LocalAnnotationLayer(
        _space(scene.grid, "xyz"), annotation_properties=[spec], annotations=points, shader=colours.MARK_SHADER
    )


def _place(scene: Scene, low: Triple, high: Triple) -> neuroglancer.LocalAnnotationLayer:
    if low == high:
        mark: Any = neuroglancer.PointAnnotation(id="place", point=_xyz(low))
    else:
        mark = neuroglancer.AxisAlignedBoundingBoxAnnotation(id="place", point_a=_xyz(low), point_b=_xyz(high))
    return neuroglancer.LocalAnnotationLayer(_space(scene.grid, "xyz"), annotations=[mark], annotation_color=colours.PLACE_COLOUR)


def _xyz(at_zyx: Triple) -> list[float]:
    """Voxel position -> Neuroglancer's, where a voxel begins at its index."""
    return [value + 0.5 for value in at_zyx[::-1]]
