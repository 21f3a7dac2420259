"""Plots with axes, as SVG: the same numbers give the same bytes. Text is drawn as paths, so that every machine shows it alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import LABEL_NAMES, Grade, Label
from brightfield.stages.report.numbers import SIDES
from brightfield.stages.report.pictures import colour

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, SOFT, BAR = "#1d2730", "#5c6b78", "#5b7083"
SIDE_COLOURS = dict(zip(SIDES, ("#33638d", "#8fb8d8", "#e0a526"), strict=True))
GRADE_COLOURS = {Grade.A: "#2a9d5c", Grade.B: "#8fbf4d", Grade.C: "#e0a526", Grade.REJECTED: "#c8442b"}
_GRADE_MARKS = {Grade.A: "o", Grade.B: "s", Grade.C: "^", Grade.REJECTED: "X"}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "brightfield",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib: no font of the machine is used
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6eaee",
    "legend.frameon": False,
    "path.simplify": False,
}

RADIUS_EDGES_UM = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0])


@contextmanager
def _plot(width_in: float, height_in: float, place: tuple[float, float, float, float] | None = None) -> Iterator[tuple[Axes, list[bytes]]]:
    """Axes to draw on, and a list that the SVG is in at the end. No global state of matplotlib is used or left changed.

    place: left, bottom, width, height of the axes as shares of the figure; without it they are fitted, which draws all several times.
    """
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.figure import Figure

    with rc_context({**{k: rcParamsDefault[k] for k in rcParamsDefault if not k.startswith("backend")}, **_STYLE}):
        figure = Figure(figsize=(width_in, height_in), layout="constrained" if place is None else None)
        drawn: list[bytes] = []
        yield figure.add_subplot() if place is None else figure.add_axes(place), drawn
        stream = BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=False)
        drawn.append(stream.getvalue())


def classes(frame: pd.DataFrame) -> bytes:
    """Path length of each class, stacked by side. frame: columns split, class, path_um."""
    names = list(LABEL_NAMES.values())[1:]  # a soma is one node: it has no path
    with _plot(6.4, 2.2) as (axes, drawn):
        left = np.zeros(len(names))
        for side, tint in SIDE_COLOURS.items():
            of = frame[frame["split"] == side].set_index("class")["path_um"]
            width = np.array([float(of[name]) / 1000 for name in names])
            axes.barh(names, width, left=left, color=tint, label=side.value, height=0.62)
            left += width
        axes.invert_yaxis()
        axes.set_xlabel("path length, mm")
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="side")
    return drawn[0]


def radii(nodes: pd.DataFrame, *, width_in: float = 6.4) -> bytes:
    """Nodes by traced radius and class, both axes logarithmic. nodes: columns label, radius_um."""
    most = 1
    with _plot(width_in, 0.42 * width_in + 0.2, (0.62 / width_in, 0.2, 1 - 0.72 / width_in, 0.76)) as (axes, drawn):
        for label, name in list(LABEL_NAMES.items())[1:]:
            radius = nodes.loc[nodes["label"] == int(label), "radius_um"].to_numpy(np.float64)
            if len(radius):
                counts, _ = np.histogram(radius.clip(RADIUS_EDGES_UM[0], RADIUS_EDGES_UM[-1]), RADIUS_EDGES_UM)
                most = max(most, int(counts.max()))
                axes.stairs(counts, RADIUS_EDGES_UM, color=colour(label), linewidth=1.6, label=f"{name}, {len(radius)} nodes")
        axes.set(xscale="log", yscale="log", xlabel="traced radius, µm", ylabel="nodes")
        axes.set(ylim=(0.8, 2.0 * most), xlim=(RADIUS_EDGES_UM[0], RADIUS_EDGES_UM[-1]))
        ticks = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        _powers_of_ten(axes.yaxis, most)
        axes.minorticks_off()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    return drawn[0]


def alignment(grades: pd.DataFrame, least: float) -> bytes:
    """Contrast and share on the stain of every cell, by grade. grades: `schema.ALIGNMENT_CELLS`. least: the gate `align.d_prime_min`."""
    with _plot(6.4, 3.6) as (axes, drawn):
        for grade, tint in GRADE_COLOURS.items():
            of = grades[(grades["grade"] == grade) & grades["d_prime"].notna() & grades["share_on"].notna()]
            if len(of):
                x, y = of["d_prime"].to_numpy(np.float64), 100 * of["share_on"].to_numpy(np.float64)
                axes.scatter(x, y, s=26, color=tint, marker=_GRADE_MARKS[grade], label=f"{grade.value}, {len(of)} cells", linewidths=0)
        axes.axvline(least, color=SOFT, linewidth=0.9, linestyle="--", label=f"least d′ of a stretch, {least:g}")
        axes.set(xlabel="contrast d′", ylabel="path on its stain, %", ylim=(-3, 103))
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.legend(loc="best", title="grade")
    return drawn[0]


def split_balance(shares: Mapping[str, Sequence[float]], wanted: Sequence[float]) -> bytes:
    """Shares of train, val and test of each thing in `shares`, stacked to 100 %; dashed lines where the sides should end (`wanted`)."""
    with _plot(6.4, 0.9 + 0.27 * max(len(shares), 2)) as (axes, drawn):
        left = np.zeros(len(shares))
        for k, (side, tint) in enumerate(SIDE_COLOURS.items()):
            width = 100 * np.array([row[k] for row in shares.values()])
            axes.barh(list(shares), width, left=left, color=tint, label=side.value, height=0.66)
            left += width
        for edge in np.cumsum(wanted)[:-1]:
            axes.axvline(100 * edge, color=INK, linewidth=0.9, linestyle="--")
        axes.invert_yaxis()
        axes.set(xlabel="share, %", xlim=(0, 100))
        axes.grid(visible=False, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="side")
    return drawn[0]


def unknown(voxels: Mapping[str, int]) -> bytes:
    """Unknown voxels by reason, on a logarithmic axis."""
    names = [name.replace("_", " ") for name in voxels]
    with _plot(6.4, 2.5) as (axes, drawn):
        bars = axes.barh(names, list(voxels.values()), color=colour(Label.UNKNOWN), height=0.62)
        axes.bar_label(bars, [f"{n:,}".replace(",", " ") for n in voxels.values()], padding=4, color=SOFT, fontsize=8)
        axes.invert_yaxis()
        if any(voxels.values()):
            axes.set_xscale("log")
            axes.set_xlim(1, 40 * max(voxels.values()))
            _powers_of_ten(axes.xaxis, 40 * max(voxels.values()))
            axes.minorticks_off()
        axes.set_xlabel("voxels")
        axes.grid(visible=False, axis="y")
    return drawn[0]


def _powers_of_ten(axis: Axis, most: int) -> None:
    """Ticks of a logarithmic axis at 1, 10, 100 and so on, in words that are shorter than zeros where there are many."""
    powers = range(len(str(most)))
    names = ["1", "10", "100", "1k", "10k", "100k", "1M", "10M", "100M", "1G", "10G", "100G", "1T"]
    axis.set_ticks([10.0**k for k in powers if k < len(names)], [names[k] for k in powers if k < len(names)])


def shares_of(counts: NDArray[Any]) -> list[float]:
    """Shares of a whole; zeros where there is nothing."""
    whole = float(np.sum(counts))
    return [float(n) / whole if whole else 0.0 for n in counts]
