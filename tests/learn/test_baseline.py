"""The example in `baseline/`: what its network sees and learns from, and its pipeline from end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from brightfield.core.errors import ConfigError
from brightfield.testing.dataset import make_dataset

torch = pytest.importorskip("torch", exc_type=ImportError)
pytest.importorskip("dvclive")
pytestmark = pytest.mark.learn

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "network": {"channels": [3, 4], "kernel_zyx": [[1, 3, 3], [3, 3, 3]], "pool_zyx": [[1, 2, 2]], "surroundings_px": 5},
    "train": {"steps": 20, "batch": 2, "size_zyx": [8, 16, 16], "learning_rate": 0.02},
}


def settings(**groups: dict[str, Any]) -> Any:
    from unet.settings import Settings

    return Settings.model_validate({**SMALL, **{name: {**SMALL.get(name, {}), **values} for name, values in groups.items()}})


@pytest.fixture(params=["two levels", "three levels"])
def network(request: pytest.FixtureRequest) -> Any:
    from unet.network import UNet
    from unet.settings import Network

    torch.manual_seed(4)
    shape = settings().network if request.param == "two levels" else Network(channels=(2, 3, 3), surroundings_px=9)
    made = UNet(shape)
    with torch.no_grad():
        made.head.bias.zero_()
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm3d):  # as after training: not the identity
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.2, 1.0)
                module.bias.uniform_(0.5, 1.0)  # so that no part of it is dead
    return made.eval()


def cpu() -> Any:
    from unet.device import Device

    return Device("cpu", None, 0)


def grey(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.2, 1, shape).astype(np.float32)


def reader(volume: np.ndarray) -> Callable[[Any], np.ndarray]:
    return lambda window: volume[tuple(slice(*side) for side in window)]


@pytest.mark.parametrize("block", [(6, 24, 40), (10, 27, 37)])
def test_blocks_give_what_the_whole_volume_at_once_does(network: Any, block: tuple[int, int, int]) -> None:
    from unet.blocks import block_shape, blocks_of, shares

    shape = (17, 59, 85)
    volume = grey(shape)
    whole = shares(network, reader(volume), tuple((0, n) for n in shape), shape, cpu())
    stitched = np.full_like(whole, np.nan)
    for window in blocks_of(shape, block_shape(network, block)):
        stitched[(slice(None), *(slice(*side) for side in window))] = shares(network, reader(volume), window, shape, cpu())
    assert whole.std(axis=(1, 2, 3)).min() > 1e-3
    np.testing.assert_allclose(stitched, whole, atol=1e-5)


def test_a_voxel_sees_as_far_as_is_read_around_a_block_and_not_much_less(network: Any) -> None:
    from unet.network import reach_zyx
    from unet.settings import stride_of

    reach, stride = reach_zyx(network.shape), stride_of(network.shape)
    middle = tuple(r + s for r, s in zip(reach, stride, strict=True))
    image = torch.from_numpy(grey(tuple(2 * m + s for m, s in zip(middle, stride, strict=True))))[None, None].double()
    far = np.zeros(3, int)
    for end in (0, 1):  # the first and the last voxel of what is pooled together
        at = np.add(middle, end * (np.array(stride) - 1))
        seen = _seen(network.double(), image.requires_grad_(), at)
        far = np.maximum(far, np.abs(seen - at).max(axis=0))
    assert (far <= reach).all()
    assert (far > np.array(reach) / 2).all()


def _seen(network: Any, image: Any, at: np.ndarray) -> np.ndarray:
    """(n, 3) the voxels that the logits at a voxel depend on."""
    logits = network(image)[0, :, *at]
    (slope,) = torch.autograd.grad((logits * torch.arange(1.0, 6.0)).sum(), image)
    return np.argwhere(slope[0, 0].numpy() != 0)


# ----------------------------------------------------------------------------------------------------------------------- loss


def batch(n: int = 2) -> tuple[Any, Any, Any, Any]:
    """Logits, codes with unknown voxels, the centreline, and absences: the axon of the second cell is not known."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, 5, 4, 6, 6, generator=generator)
    codes = torch.zeros(n, 4, 6, 6, dtype=torch.uint8)
    codes[:, 1:3, 2, 1:5], codes[:, 1:3, 4, 1:5], codes[:, :, 5] = 3, 2, 255
    line = torch.where(codes == 255, 0, codes)
    line[:, 2] = 0
    absent = torch.tensor([[False, True, True, True, True], [False, True, False, True, True]])
    return logits, codes, line, absent


def terms(*arguments: Any) -> np.ndarray:
    from unet.loss import loss_terms

    found = loss_terms(*arguments, 4.0)
    return np.array([found.entropy.item(), found.dice.item(), found.topology.item()])


def test_unknown_voxels_do_not_count() -> None:
    logits, codes, line, absent = batch()
    other = torch.where((codes == 255)[:, None], 7 * logits + 1, logits)
    np.testing.assert_allclose(terms(other, codes, line, absent), terms(logits, codes, line, absent), rtol=1e-5)


@pytest.mark.parametrize(("cell", "is_judged"), [(0, True), (1, False)])
def test_axon_where_nothing_is_labelled_costs_only_where_its_absence_is_known(cell: int, is_judged: bool) -> None:
    _, codes, line, absent = batch()
    sure = torch.nn.functional.one_hot(torch.where(codes == 255, 0, codes).long(), 5).movedim(-1, 1) * 12.0
    axon = sure.clone()
    axon[cell, :, 0, 0, 0] = torch.tensor([0.0, 0, 12, 0, 0])
    before, after = terms(sure, codes, line, absent), terms(axon, codes, line, absent)
    assert (before < 2e-2).all()
    assert (after[:2] - before[:2] > 1e-3).all() == is_judged
    if not is_judged:
        np.testing.assert_allclose(after, before, atol=1e-4)


def test_a_gap_in_the_centreline_costs_more_than_one_beside_it() -> None:
    _, codes, line, absent = batch()
    sure = torch.nn.functional.one_hot(torch.where(codes == 255, 0, codes).long(), 5).movedim(-1, 1) * 12.0
    on, beside = sure.clone(), sure.clone()
    nothing = torch.tensor([12.0, 0, 0, 0, 0])
    on[0, :, 1, 2, 2], beside[0, :, 2, 2, 2] = nothing, nothing  # planes 1 and 2 hold the tube, plane 1 its centreline
    one, other = terms(on, codes, line, absent), terms(beside, codes, line, absent)
    np.testing.assert_allclose(one[:2], other[:2], atol=1e-4)
    assert one[2] > other[2] + 0.05


# ------------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("train: {stepz: 3}", r"train\.stepz: Extra inputs"),
        ("train: {size_zyx: [8, 16, 18]}", "multiple of"),
        ("network: {channels: [8]}", "1 levels need"),
        ("train: {draw: often}", r"train\.draw: .*'each', 'weight' or 'class'.*often"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(tmp_path: Path, said: str, message: str) -> None:
    from unet.settings import read_settings

    (tmp_path / "params.yaml").write_text(said)
    with pytest.raises(ConfigError, match=message) as error:
        read_settings(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_params_yaml_says_what_the_defaults_are() -> None:
    from unet.settings import Settings, read_settings

    assert read_settings(ROOT / "baseline/params.yaml") == Settings()


# ------------------------------------------------------------------------------------------------------------------- pipeline


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    return root


@pytest.fixture(scope="module")
def built(root: Path, at_home: None) -> Path:
    """The pipeline, run by DVC on a small dataset with a small network."""
    folder = root / "baseline"
    shutil.copytree(ROOT / "baseline", folder, ignore=shutil.ignore_patterns("cache", "tmp", "__pycache__", "dvc.lock", "dvclive", *OUTS))
    (folder / "params.yaml").write_text(yaml.safe_dump(settings().model_dump(mode="json")))
    dvc(root, "git", "init", "-q")
    dvc(root, "git", "commit", "-q", "--allow-empty", "-m", "a start")  # DVCLive wants to know which commit it follows
    dvc(root, sys.executable, "-m", "dvc", "init", "-q")
    (root / "dvc.yaml").write_text("stages: {of_the_dataset: {cmd: echo, deps: [params.yaml]}}")
    dvc(root, sys.executable, "-m", "dvc", "repro", "-q")
    dvc(folder, sys.executable, "-m", "dvc", "repro")
    return folder


OUTS = ("model.pt", "predictions", "scores.json", "scores.md", "threshold.json")


def dvc(folder: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_pipeline_trains_predicts_and_scores(built: Path, root: Path) -> None:
    from brightfield.evaluation import evaluate
    from brightfield.evaluation.voxels import NEURITE

    table = json.loads((built / "scores.json").read_text())
    assert set(table) == {"U-Net"}  # no training cell of this dataset is fully traced, so the filters cannot be fitted
    for side in ("val", "test"):
        (one,) = evaluate(root, built / "predictions", split=side)
        assert table["U-Net"][side][NEURITE]["f1"] == one.score.voxels[NEURITE].f1
    assert (built / "scores.md").read_text().count("\n| U-Net |") == 2
    curve = (built / "dvclive/plots/metrics/loss.tsv").read_text().splitlines()
    assert curve[0] == "step\tloss"
    assert float(curve[-1].split("\t")[1]) < float(curve[1].split("\t")[1])


@pytest.mark.slow
def test_the_notebook_opens_looks_trains_and_scores(root: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    path = ROOT / "docs/notebooks/first-training.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep the notebook without outputs"
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += f"\nDATA, STEPS, SIZE_ZYX, BLOCK_ZYX = {str(root)!r}, 5, (8, 16, 16), (8, 32, 32)"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert "neurite" in notebook.cells[-1].outputs[0].text


@pytest.mark.slow
def test_it_is_a_repository_beside_that_of_the_dataset(built: Path, root: Path) -> None:
    assert "up to date" in dvc(built, sys.executable, "-m", "dvc", "repro")
    assert "up to date" in dvc(root, sys.executable, "-m", "dvc", "status")
    (built / "model.pt").unlink()  # a link into the cache
    (built / "model.pt").write_bytes(b"")
    assert "up to date" in dvc(root, sys.executable, "-m", "dvc", "status")
    assert "model.pt" in dvc(built, sys.executable, "-m", "dvc", "status")
    dvc(built, sys.executable, "-m", "dvc", "checkout", "--force")
    assert (built / "model.pt").stat().st_size


def test_a_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    from unet.train import save, train

    files = [tmp_path / str(i) / "model.pt" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        file.parent.mkdir()
        save(train(settings(train={"steps": 4, "seed": seed}).changed(data=str(root))), file)
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


@pytest.mark.parametrize("steps", [1, 2, 5, 900])
def test_the_learning_rate_rises_and_falls(steps: int) -> None:
    from unet.train import rate_at

    rates = np.array([rate_at(step, steps) for step in range(steps)])
    top = int(rates.argmax())
    assert rates[top] == 1
    assert top <= steps / 5
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates.min() > 0


def test_the_steps_of_a_share_tell_what_is_nearly_sure_apart() -> None:
    from unet.predict import share_of, steps_of

    steps = np.arange(1, 256)
    shares = np.array([share_of(int(step)) for step in steps])
    assert (np.diff(shares) > 0).all()
    inner = (shares > 2e-6) & (shares < 1 - 1e-6)
    assert (steps_of((1 - shares[inner]).astype(np.float32)) == steps[inner]).all()
    assert shares[63] == 0.5
    assert ((shares > 0.99) & (shares < 0.9999)).sum() > 30
    assert steps_of(np.array([0, 1], np.float32)).tolist() == [255, 1]


def test_the_threshold_is_the_best_that_scoring_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from brightfield.evaluation.scoring import Options, score_file
    from brightfield.evaluation.voxels import NEURITE
    from evaluation.making import knowing_all, make_truth, neuron
    from unet import predict

    truth = knowing_all(make_truth(tmp_path, neuron()))
    codes, random = truth.labels.read(), np.random.default_rng(0)
    is_true = np.isin(codes, [1, 2, 3, 4])
    share = np.where(is_true, random.integers(100, 256, codes.shape), random.integers(0, 180, codes.shape)).astype(np.uint8)
    kind = np.where(is_true & (random.random(codes.shape) < 0.8), codes, random.integers(1, 5, codes.shape)).astype(np.uint8)
    one = predict.CellShares(SimpleNamespace(image=truth.labels, specimen_id=1), "val", share, kind)  # type: ignore[arg-type]
    monkeypatch.setattr(predict, "read_truth", lambda root, ids: [truth])
    threshold, f1 = predict.best_threshold(settings(), [one])

    def scored(least: int) -> float:
        predict.write_codes(one, least, tmp_path / f"{least}.zarr")
        return score_file(tmp_path / f"{least}.zarr", truth, Options()).voxels[NEURITE].f1 or 0.0  # None where nothing is predicted

    assert scored(threshold) == pytest.approx(f1)
    assert 100 < threshold < 255
    assert all(scored(other) <= f1 for other in (1, threshold - 7, threshold - 1, threshold + 1, threshold + 7, 255))
