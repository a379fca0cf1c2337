"""The networks that are measured, and the batches and finished tasks, which are the same for every variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LR = 0.05
LAMB = 0.75
S_MAX = 400.0
MAX_NORM = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Network:
    """One of the paper's two networks.

    Attributes:
        kind: `"mlp"` (Serrà et al. 2018, section 4.2) or `"alexnet"` (section 4.1).
        input_shape: the shape of one input.
        hidden: the widths of the gated linear layers.
        channels: the channels of the three convolutions of an AlexNet; empty for an MLP.
        classes: the number of classes of every task.
        drop: apply the paper's dropout. It is off where two variants must compute the same numbers.
    """

    kind: str
    input_shape: tuple[int, ...]
    hidden: tuple[int, ...]
    channels: tuple[int, ...] = ()
    classes: int = 10
    drop: bool = True

    @property
    def units(self) -> tuple[int, ...]:
        """The length of every gate, in order."""
        return (*self.channels, *self.hidden)

    @property
    def dropout(self) -> tuple[float, ...]:
        """The dropout probabilities: for an MLP that of the input first, then one per gated layer."""
        paper = (0.2, *[0.5] * len(self.hidden)) if self.kind == "mlp" else (0.2, 0.2, *[0.5] * (len(self.units) - 2))
        return paper if self.drop else (0.0,) * len(paper)

    def __str__(self) -> str:
        if self.kind == "mlp":
            return "MLP " + "-".join(map(str, (self.input_shape[0], *self.hidden, self.classes)))
        return "AlexNet " + "x".join(map(str, self.input_shape))


MLP = Network(kind="mlp", input_shape=(784,), hidden=(2000, 2000))
ALEXNET = Network(kind="alexnet", input_shape=(3, 32, 32), hidden=(2048, 2048), channels=(64, 128, 256))


def used_units(units: Sequence[int], share: float, *, seed: int = 0) -> list[Tensor]:
    """The masks of a finished task that uses exactly `round(share N)` random units of every gate.

    Args:
        units: the number of units N of every gate.
        share: the share of the units, in [0, 1].
        seed: the seed of the random units.

    Returns:
        For every gate a mask [N] of 0.0 and 1.0.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for count in units:
        mask = torch.zeros(count)
        mask[torch.randperm(count, generator=generator)[: round(share * count)]] = 1.0
        masks.append(mask)
    return masks


def batches(network: Any, batch: int, count: int, *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of noise. The time of a step does not depend on the data.

    Args:
        network: an object with `input_shape` and `classes`.
        batch: the number of samples per batch.
        count: the number of batches.
        seed: the seed of the noise.

    Returns:
        `count` pairs of inputs [batch, *input_shape] in [0, 1) and labels [batch].
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(batch, *network.input_shape, generator=generator),
            torch.randint(network.classes, (batch,), generator=generator),
        )
        for _ in range(count)
    ]
