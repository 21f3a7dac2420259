"""Stage `train`: the U-Net on the training patches; writes model.pt, and metrics and curves with DVCLive."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from dvclive import Live
from torch import Tensor, nn

import brightfield
from brightfield.core.codes import LABEL_NAMES
from brightfield.torch import PatchDataset, PatchLoader
from unet.device import Device
from unet.loss import Terms, loss_terms
from unet.network import UNet
from unet.settings import Settings, Train, read_settings

MODEL = Path("model.pt")
_EVERY = 10
"""Steps between two points of a curve."""


def main() -> None:
    """As `dvc.yaml` runs it."""
    settings = read_settings()
    with Live("dvclive", save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:
        network = train(settings, live)
    save(network, MODEL)


def train(settings: Settings, live: Any = None) -> UNet:
    """The trained network, on the CPU: the running average of its weights. Its numbers go to `live`, a `dvclive.Live`."""
    chosen = settings.train
    device = Device.of(settings.device, chosen.threads)
    torch.manual_seed(chosen.seed)
    network = device.moved(UNet(settings.network))
    kept = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), chosen.learning_rate, weight_decay=chosen.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, chosen.steps))
    absences = absences_of(Path(settings.data))
    scaler = device.scaler()
    for step, batch in enumerate(_batches(settings, device)):
        terms = _terms(network, batch, absences, chosen, device)
        value = terms.entropy + chosen.dice * terms.dice + chosen.topology * terms.topology
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        _average(kept, network, min(chosen.average, (step + 1) / (step + 10)))
        _log(live, step, value, terms)
    trained: UNet = kept.to("cpu")
    return trained


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step, 0 to steps: up in a line over the first fifth, then down along a cosine."""
    rising = max(1, steps // 5)
    return (step + 1) / rising if step < rising else 0.5 * (1 + cos(pi * (step - rising + 1) / (steps - rising + 1)))


def absences_of(root: Path) -> dict[int, list[bool]]:
    """For each cell, whether a label of 0 says that a class is absent: a bool per class, that of background False."""
    rows = brightfield.manifest(root).set_index("specimen_id")
    names = [f"absent_{LABEL_NAMES[code]}" for code in sorted(LABEL_NAMES)]
    return {int(i): [False, *(rows.loc[i, names] == "absent")] for i in rows.index[rows["split"] == "train"]}


def save(network: UNet, path: Path) -> None:
    """Weights and shape in one file, the same bytes for the same network."""
    torch.save({"shape": network.shape.model_dump(), "weights": network.state_dict()}, path)


def _batches(settings: Settings, device: Device) -> Iterator[dict[str, Any]]:
    """As many batches as there are steps, epoch after epoch."""
    chosen = settings.train
    dataset = PatchDataset(
        settings.data,
        "train",
        size=chosen.size_zyx,
        targets=("semantic", "centerline"),
        scale="grey",
        augment=chosen.augment,
        draw=chosen.draw,
        seed=chosen.seed,
    )
    loader = PatchLoader(dataset, batch_size=chosen.batch, drop_last=len(dataset) >= chosen.batch, num_workers=device.workers)
    left = chosen.steps
    while left:
        for batch in loader:
            yield batch
            left -= 1
            if not left:
                return


def _terms(network: nn.Module, batch: dict[str, Any], absences: dict[int, list[bool]], chosen: Train, device: Device) -> Terms:
    absent = torch.tensor([absences[int(i)] for i in batch["specimen_id"]], device=device.name)
    with device.autocast():
        logits = network(device.moved(batch["image"]))
    codes, centreline = (batch[name].to(device.name) for name in ("semantic", "centerline"))
    return loss_terms(logits, codes, centreline, absent, chosen.foreground)


@torch.no_grad()
def _average(kept: nn.Module, network: nn.Module, share: float) -> None:
    for mean, value in zip(kept.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - share)
        else:
            mean.copy_(value)


def _log(live: Any, step: int, value: Tensor, terms: Terms) -> None:
    if live is None or step % _EVERY:
        return
    live.step = step
    live.log_metric("loss", value.item())
    for name in ("entropy", "dice", "topology"):
        live.log_metric(name, getattr(terms, name).item())
    live.make_summary()


if __name__ == "__main__":
    main()
