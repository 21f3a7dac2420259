"""The numbers of report and metrics, counted again from the arrays and the skeletons."""

from __future__ import annotations

import numpy as np
import pytest

from brightfield.core.codes import LABEL_NAMES, Label, Reason
from brightfield.core.layout import REPORT_FILE
from brightfield.core.schema import MANIFEST
from brightfield.core.swc import read_swc
from brightfield.core.tables import read_table
from brightfield.stages.report.index import write_index
from brightfield.stages.report.material import Material
from brightfield.stages.report.numbers import metrics, plots
from brightfield.testing.dataset import make_dataset
from brightfield.volumes.volume import open_volume


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    root = tmp_path_factory.mktemp("dataset")
    return Material(root, make_dataset(root), [])


def test_metrics_and_plots_count_the_voxels_and_the_cable_of_the_cells_that_are_taken(material: Material) -> None:
    taken = read_table(MANIFEST, material.root).query("split != 'excluded'")
    labels = [open_volume(material.root / path).read() for path in taken["label_path"]]
    reasons = [open_volume(material.root / path).sub("reason").read() for path in taken["label_path"]]
    came = [(reason & Reason.NOT_DOWNLOADED) == 0 for reason in reasons]
    skeletons = [read_swc(material.root / path) for path in taken["skeleton_path"]]
    found = metrics(material)
    assert len(labels) == 3
    assert found["voxels_fetched"] == sum(int(there.sum()) for there in came)
    assert found["voxels_unknown"] == sum(int((there & (of == Label.UNKNOWN)).sum()) for there, of in zip(came, labels, strict=True)) > 0
    assert found["bytes_images"] == sum(
        f.stat().st_size for path in taken["image_path"] for f in (material.root / path).rglob("*") if f.is_file()
    )
    classes = plots(material)["classes"]
    for label, name in LABEL_NAMES.items():
        painted, cable = sum(int((of == label).sum()) for of in labels), sum(of.path_length_um()[label] for of in skeletons)
        assert (found[f"voxels_{name}"], found[f"path_um_{name}"]) == (painted, pytest.approx(cable, abs=0.1))
        assert classes.loc[classes["class"] == name, "voxels"].sum() == painted
    assert found["voxels_basal"] > 0
    counts = material.proof.counts.set_index("split")["voxels"]
    assert {side: int(n) for side, n in counts.items()} == {
        side: sum(int(np.isin(of, list(LABEL_NAMES)).sum()) for of, where in zip(labels, taken["split"], strict=True) if where == side)
        for side in ("train", "val", "test")
    }


def test_the_report_links_only_to_the_web(material: Material) -> None:
    material.manifest["license_url"] = "javascript:alert(9)"
    write_index(material, "")
    page = (material.root / REPORT_FILE).read_text("utf-8")
    assert "javascript:" not in page
    assert material.manifest["citation"].iloc[0] in page
