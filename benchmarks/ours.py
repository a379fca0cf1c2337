"""The variant `ours`: HAT with this library, trained as published: SGD, gradients clipped at a norm of 10 000."""

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
    """The gated layers of a network, without a head."""
    if isinstance(network, ConvertedNetwork):
        return network.body()
    if network.kind == "alexnet":
        return hat.models.alexnet(
            network.input_shape, channels=network.channels, hidden=network.hidden, dropout=network.dropout
        )
    first, second = network.dropout[:2]
    return hat.models.mlp(network.input_shape[0], network.hidden, input_dropout=first, dropout=second)


class Ours(TrainingStep):
    """Training steps with `hat.HATModel` and `hat.optim.SGD`."""

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
        """Begin the first task, or the task after some finished tasks.

        Args:
            network: the network.
            finished: the mask [N] of every gate, of 0 and 1, that all finished tasks have. None: there is no finished
                task.
            tasks: the number of finished tasks with these masks.
            in_backward: update the weights inside the backward matmul. Then no gradients exist, so none are clipped.
            config: how gates are learned; by default the library's default with the paper's `s_max`.
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
    """Add a finished task with these masks, as if training had moved every embedding to its limit."""
    model.begin_task(classes=classes)
    limit = model.config.limit
    for gate, mask in zip(model.gates.values(), masks, strict=True):
        gate.embedding.copy_(torch.where(placed(mask, gate) > 0, limit, -limit))
    model.end_task()


def placed(mask: Tensor, gate: hat.Gate) -> Tensor:
    """Reorder a mask [N] from the first order of the units to the present order of the gate's units."""
    return mask[gate.origin]
