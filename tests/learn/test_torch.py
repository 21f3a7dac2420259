from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brightfield
from brightfield.core.errors import ConfigError
from brightfield.testing.dataset import make_dataset
from repositories import pushed_dataset

torch = pytest.importorskip("torch", exc_type=ImportError)
pytestmark = [
    pytest.mark.learn,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # forks of pytest, as in any notebook
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more workers than cores, on purpose
]

OPTIONS: dict[str, Any] = {"targets": ("semantic", "distance"), "augment": True, "seed": 3}
N, BATCH = 20, 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    return root


def datasets() -> list[Callable[..., Any]]:
    from brightfield.torch import PatchDataset, StreamDataset

    return [PatchDataset, StreamDataset]


def batches(loader: Any) -> list[dict[str, Any]]:
    return list(loader)


def equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(torch.nan_to_num(a[k], -9), torch.nan_to_num(b[k], -9)) for k in a)
        for a, b in zip(one, other, strict=True)
    )


def loader(dataset: Any, **options: Any) -> Any:
    from brightfield.torch import PatchLoader

    return PatchLoader(dataset, batch_size=BATCH, **options)


def test_tensors_hold_what_the_arrays_do(root: Path) -> None:
    for dataset in (datasets()[0](root, **OPTIONS), datasets()[1](root, by_shard=False, **OPTIONS)):
        arrays = brightfield.patches(root, **OPTIONS)
        for sample, expected in zip(dataset, arrays, strict=True):
            assert sample.keys() == expected.keys()
            for name, value in expected.items():
                if isinstance(value, np.ndarray):
                    assert sample[name].dtype == getattr(torch, str(value.dtype))
                    np.testing.assert_array_equal(sample[name].numpy(), value)
                else:
                    assert sample[name] == value


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [0, 1])
def test_the_order_is_the_same_whatever_the_workers(root: Path, number: int, method: str) -> None:
    alone = loader(datasets()[number](root, **OPTIONS))
    expected = [batches(alone), batches(alone)]
    assert not equal(expected[0], expected[1])  # each pass is another epoch
    assert sum(len(batch["patch"]) for batch in expected[0]) == N
    for workers in (2, 4):
        persistent = loader(
            datasets()[number](root, **OPTIONS), num_workers=workers, multiprocessing_context=method, persistent_workers=True
        )
        assert equal(batches(persistent), expected[0])
        assert equal(batches(persistent), expected[1])


def test_a_plain_dataloader_gives_that_order_too(root: Path) -> None:
    from torch.utils.data import DataLoader

    patches, stream = datasets()
    for workers in (0, 2):
        for dataset in (patches(root, **OPTIONS), stream(root, batch_size=BATCH, **OPTIONS)):
            expected = batches(loader(type(dataset)(root, **OPTIONS)))
            assert equal(batches(DataLoader(dataset, batch_size=BATCH, num_workers=workers)), expected)
            dataset.set_epoch(1)
            assert not equal(batches(DataLoader(dataset, batch_size=BATCH, num_workers=workers)), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [0, 1])
def test_training_goes_on_in_mid_epoch(root: Path, number: int, workers: int) -> None:
    make = datasets()[number]
    whole = loader(make(root, **OPTIONS), num_workers=workers)
    first, second, third = (batches(whole) for _ in range(3))
    stopped = loader(make(root, **OPTIONS), num_workers=workers)
    batches(stopped)
    seen = []
    for batch in stopped:
        seen.append(batch)
        if len(seen) == 2:
            state = json.loads(json.dumps(stopped.state_dict()))
            break
    assert (state["epoch"], state["position"]) == (1, 2 * BATCH)
    resumed = loader(make(root, **OPTIONS), num_workers=workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert equal(seen + batches(resumed), second)
    assert resumed.state_dict()["epoch"] == 2
    assert equal(batches(resumed), third)
    assert not equal(first, second)


def test_a_dataset_says_where_it_is_unless_workers_read_ahead(root: Path) -> None:
    from torch.utils.data import DataLoader

    dataset = datasets()[0](root, **OPTIONS)
    for _, _ in zip(range(3), DataLoader(dataset, batch_size=2), strict=False):
        pass
    assert dataset.state_dict()["position"] == 6
    iterator = iter(DataLoader(dataset, batch_size=2, num_workers=2))
    next(iterator)
    with pytest.raises(ConfigError, match="workers read ahead"):
        dataset.state_dict()
    assert dataset.state_dict(2)["position"] == 2
    del iterator


def test_ranks_of_a_process_group_share_the_epoch_out(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        f"""
import sys
from torch import distributed
from brightfield.torch import PatchDataset
distributed.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=int(sys.argv[1]), world_size=2)
data = PatchDataset({str(root)!r}, seed=3)
print(*(f"{{s['specimen_id']}}/{{s['patch']}}" for s in data))
distributed.destroy_process_group()
"""
    )
    ranks = [subprocess.Popen([sys.executable, script, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    first, second = (process.communicate(timeout=300)[0].split() for process in ranks)
    assert len(first) == len(second) == N // 2
    assert not set(first) & set(second)
    alone = [f"{s['specimen_id']}/{s['patch']}" for s in brightfield.patches(root, seed=3)]
    assert [key for pair in zip(first, second, strict=True) for key in pair] == alone[: N // 2 * 2]


def test_the_training_guide_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs/how-to/train.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "train.md", "exec"), names)
    assert np.isfinite(names["value"].item())
    assert (names["state"]["data"]["epoch"], names["state"]["data"]["position"]) == (2, 0)


def test_a_loader_refuses_to_order_again(root: Path) -> None:
    with pytest.raises(ConfigError, match="takes no shuffle"):
        loader(datasets()[0](root), shuffle=True)


def test_a_network_learns_from_it(root: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 5, 3, padding=1)
    loss = torch.nn.CrossEntropyLoss(ignore_index=255)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    patches = loader(datasets()[0](root, seed=3))
    losses = []
    for batch in _epochs(patches, 4):
        value = loss(network(batch["image"]), batch["semantic"].long())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < 0.5 * losses[0]


def _epochs(patches: Any, n: int) -> Iterator[dict[str, Any]]:
    for _ in range(n):
        yield from patches


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize("number", [0, 1])
def test_a_revision_gives_the_same_batches_whatever_the_workers(root: Path, number: int, tmp_path: Path) -> None:
    repository = pushed_dataset(root, tmp_path)
    here = batches(loader(datasets()[number](root, by_shard=True, **OPTIONS)))
    for workers, cache in ((0, None), (2, tmp_path / "cache")):
        dataset = datasets()[number](repository, rev="v1", cache=cache, by_shard=True, **OPTIONS)
        assert equal(batches(loader(dataset, num_workers=workers)), here)
