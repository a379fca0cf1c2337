"""HAT as a user of this library writes it, with the published recipe: SGD, clipped at 10 000."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat
from benchmarks.converted import ConvertedNetwork
from benchmarks.step import TrainingStep
from benchmarks.workload import LAMB, LR, MAX_NORM, S_MAX, Network


def body(network: Network | ConvertedNetwork) -> nn.Module:
    """The gated layers."""
    if isinstance(network, ConvertedNetwork):
        return network.body()
    if network.kind == "alexnet":
        return hat.models.alexnet(
            network.input_shape, channels=network.channels, hidden=network.hidden, dropout=network.dropout
        )
    first, second = network.dropout[:2]
    return hat.models.mlp(network.input_shape[0], network.hidden, input_dropout=first, dropout=second)


class Ours(TrainingStep):
    """One training step after another with `hat.HATModel` and `hat.optim.SGD`."""

    name = "ours"
    model: hat.HATModel

    def __init__(
        self,
        network: Network | ConvertedNetwork,
        *,
        finished: Sequence[Tensor] | None = None,
        tasks: int = 1,
        in_backward: bool = False,
        config: hat.GateConfig | None = None,
    ) -> None:
        """Learn the first task, or the next one.

        Args:
            network: which network.
            finished: the 0/1 mask [N] of every gate for each finished task, or None for a first task.
            tasks: how many finished tasks use `finished`.
            in_backward: update the weights inside the backward matmul; then no gradient is there to clip.
            config: of the gates; by default the library's.
        """
        self.model = hat.HATModel(body(network), config=config or hat.GateConfig(s_max=S_MAX))
        for _ in range(tasks if finished is not None else 0):
            assert finished is not None
            finish(self.model, finished, network.classes)
        self.model.begin_task(classes=network.classes)
        self.optimizer = hat.optim.SGD(
            self.model.task_parameters(),
            lr=LR,
            max_norm=None if in_backward else MAX_NORM,
            in_backward=in_backward,
        )

    def forward(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        self.model.anneal(progress)
        return F.cross_entropy(self.model(x), y) + LAMB * self.model.penalty()


@torch.no_grad()
def finish(model: hat.HATModel, masks: Sequence[Tensor], classes: int) -> None:
    """A task that ends with these masks, as if training had driven every embedding to its limit."""
    model.begin_task(classes=classes)
    limit = model.config.limit
    for gate, mask in zip(model.gates.values(), masks, strict=True):
        gate.embedding.copy_(torch.where(placed(mask, gate) > 0, limit, -limit))
    model.end_task()


def placed(mask: Tensor, gate: hat.Gate) -> Tensor:
    """A mask [N] of the units as they were at first, in the places where the gate has them now."""
    return mask[gate.origin]
