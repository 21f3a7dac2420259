"""Plots: the same numbers give the same bytes, whatever was drawn before, and what is drawn is what was given."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from brightfield.core.codes import LABEL_NAMES
from brightfield.stages.report import figures

CLASSES = pd.DataFrame(
    [(side, name, 1000.0 * k + j) for k, side in enumerate(("train", "val", "test")) for j, name in enumerate(LABEL_NAMES.values())],
    columns=["split", "class", "path_um"],
)
NODES = pd.DataFrame({"label": [1, 2, 2, 3, 4], "radius_um": [5.0, 0.1, 0.1, 0.4, 1.1]})
GRADES = pd.DataFrame({"grade": ["A", "B", "rejected"], "d_prime": [30.0, 12.0, np.nan], "share_on": [0.99, 0.8, 0.1]})
DRAWN = {
    "classes": lambda: figures.classes(CLASSES),
    "radii": lambda: figures.radii(NODES),
    "alignment": lambda: figures.alignment(GRADES, 3.0),
    "split": lambda: figures.split_balance({"cells": [0.7, 0.15, 0.15], "donors": [1.0, 0.0, 0.0]}, (0.7, 0.15, 0.15)),
    "unknown": lambda: figures.unknown({"rim": 1200, "bad_plane": 0}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_an_svg_that_loads_nothing_and_says_no_date(name: str) -> None:
    svg = DRAWN[name]()
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    links = [value for of in root.iter() for key, value in of.attrib.items() if key.endswith("href")]
    assert all(value.startswith("#") for value in links)
    assert b"dc:date" not in svg
    assert b"matplotlib.org" not in svg
    assert not [of for of in root.iter() if of.tag.endswith("}text")]  # text is paths: no font of the machine


def test_nothing_to_draw_is_drawn_as_nothing() -> None:
    assert ET.fromstring(figures.radii(NODES.iloc[:0])) is not None
    assert ET.fromstring(figures.alignment(GRADES.iloc[:0], 3.0)) is not None
    assert ET.fromstring(figures.unknown({"rim": 0})) is not None


def test_bytes_do_not_depend_on_what_the_process_did_before() -> None:
    import matplotlib as mpl

    first = {name: draw() for name, draw in DRAWN.items()}
    mpl.rcParams["font.size"] = 20.0
    try:
        assert {name: draw() for name, draw in reversed(DRAWN.items())} == first
        assert mpl.rcParams["font.size"] == 20.0
    finally:
        mpl.rcdefaults()
    code = "from brightfield.stages.report.figures import unknown; print(unknown({'rim': 1200, 'bad_plane': 0}).decode())"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.strip() == first["unknown"].decode().strip()


def test_shares_of_nothing_are_zeros() -> None:
    assert figures.shares_of(np.array([0, 0])) == [0.0, 0.0]
    assert figures.shares_of(np.array([1, 3])) == [0.25, 0.75]
