"""What the network learns from: only from what is known.

Voxels labelled 255 never count. In a cell with a class whose absence is unknown (the axon of a dendrite-only cell), a voxel labelled 0 is
"background or that class": either answer is right, so that untraced axon is not taught as background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brightfield.core.codes import Label

NEURITES = ((int(Label.AXON),), (int(Label.BASAL_DENDRITE), int(Label.APICAL_DENDRITE)))
"""Groups that count alike, however many voxels each has: an axon is thin and faint. Dendrites look alike."""

GROUPS = ((int(Label.SOMA),), *NEURITES)

_UNKNOWN = int(Label.UNKNOWN)


@dataclass(frozen=True)
class Terms:
    """The terms of the loss, each a scalar from 0 up: weighted cross-entropy, soft Dice, and what is missed of the centrelines."""

    entropy: Tensor
    dice: Tensor
    topology: Tensor


def loss_terms(logits: Tensor, codes: Tensor, centreline: Tensor, absent: Tensor, foreground: float) -> Terms:
    """The terms for a batch.

    logits: (n, classes, z, y, x). codes, centreline: (n, z, y, x) uint8 label codes, 255 unknown. absent: (n, classes) bool, True for the
    classes that "0" says are not there. foreground: weight of voxels of the neuron in the cross-entropy.

    dice and topology are means over the groups that the batch holds. topology is the loss of skeleton recall (Kirchhoff et al. 2024,
    arXiv:2404.03010): the share of the true centreline that is not predicted. It does what clDice's own term does for connectivity,
    without thinning the prediction; here the centreline is the traced one.
    """
    log_share = torch.log_softmax(logits.float(), dim=1)
    log_nothing = _log_nothing(log_share, absent)
    known = codes != _UNKNOWN
    inside = known & (codes > 0)
    log_class = log_share.gather(1, torch.where(known, codes, 0).long()[:, None])[:, 0]
    weight = known + (foreground - 1) * inside
    entropy = -(weight * torch.where(inside, log_class, log_nothing)).sum() / weight.sum().clamp_min(1)
    dice = [_dice(log_share, codes, group, _judged(known, inside, absent, group)) for group in GROUPS if _holds(codes, group).any()]
    lines = [_holds(centreline, group) for group in NEURITES]
    missed = [log_share[:, 0][line].exp().mean() for line in lines if line.any()]
    return Terms(entropy, _mean(dice, entropy), _mean(missed, entropy))


def _log_nothing(log_share: Tensor, absent: Tensor) -> Tensor:
    """(n, z, y, x) log of the share of "0": background, and the classes that may be there unlabelled."""
    excluded = torch.zeros_like(absent, dtype=log_share.dtype).masked_fill(absent, -torch.inf)
    excluded[:, 0] = 0.0
    return torch.logsumexp(log_share + excluded[:, :, None, None, None], dim=1)


def _judged(known: Tensor, inside: Tensor, absent: Tensor, group: Sequence[int]) -> Tensor:
    """Where it is known whether a voxel is of a group: not in what is labelled 0, where its absence is unknown."""
    return inside | (known & absent[:, list(group)].all(dim=1)[:, None, None, None])


def _holds(codes: Tensor, group: Sequence[int]) -> Tensor:
    return (codes >= min(group)) & (codes <= max(group))


def _dice(log_share: Tensor, codes: Tensor, group: Sequence[int], judged: Tensor) -> Tensor:
    share, true = log_share[:, list(group)].exp().sum(dim=1) * judged, _holds(codes, group)
    return 1 - (2 * (share * true).sum() + 1) / (share.sum() + true.sum() + 1)


def _mean(terms: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(terms).mean() if terms else torch.zeros_like(like)
