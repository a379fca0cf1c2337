"""HAT as a user of this library writes it, with the published recipe: SGD, clipped at 10 000."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat
from benchmarks.workload import LAMB, LR, MAX_NORM, S_MAX, Network


def body(network: Network) -> nn.Sequential:
    """The gated layers."""
    if network.kind == "alexnet":
        return hat.models.alexnet(
            network.input_shape, channels=network.channels, hidden=network.hidden, dropout=network.dropout
        )
    first, second = network.dropout[:2]
    return hat.models.mlp(network.input_shape[0], network.hidden, input_dropout=first, dropout=second)


class Ours:
    """One training step after another with `hat.HATModel` and `hat.optim.SGD`."""

    name = "ours"

    def __init__(
        self, network: Network, *, finished: Sequence[Tensor] | None = None, config: hat.GateConfig | None = None
    ) -> None:
        """`finished`: the 0/1 mask [N] of every gate for one finished task, or None for a first task."""
        self.model = hat.HATModel(body(network), config=config or hat.GateConfig(s_max=S_MAX))
        if finished is not None:
            self.model.begin_task(classes=network.classes)
            with torch.no_grad():  # as if training had driven every embedding to its limit
                for embedding, mask in zip(self.model.embeddings, finished, strict=True):
                    embedding.copy_(torch.where(mask > 0, self.model.config.limit, -self.model.config.limit))
            self.model.end_task()
        self.model.begin_task(classes=network.classes)
        self.optimizer = hat.optim.SGD(self.model.task_parameters(), lr=LR, max_norm=MAX_NORM)

    def __call__(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        self.model.anneal(progress)
        loss = F.cross_entropy(self.model(x), y) + LAMB * self.model.penalty()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
