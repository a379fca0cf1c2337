"""The variant `textbook`: the equations of the HAT paper as eager operations, as published code computes them.

Source: Serrà et al. 2018, equations 1 to 5 and section 2.5, with the constants of the published code.

Gates multiply the activations after pooling. A lock is a tensor as large as the weight; it is made once per task and
multiplied into every gradient. The compensation uses two hyperbolic cosines. `torch.nn.utils.clip_grad_norm_` and
`torch.optim.SGD` each pass over all parameters. In the first task nothing is locked, and no gradient is multiplied, as
in the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import kernels
from benchmarks.step import TrainingStep
from benchmarks.workload import LAMB, LR, MAX_NORM, S_MAX, Network

TASKS = 10  # the number of tasks that the network has heads and embeddings for
CLAMP_COSH = 50.0
CLAMP_EMBEDDING = 6.0


class GatedNetwork(nn.Module):
    """Convolutions, then linear layers. A gate follows every layer. There is one head per task.

    Attributes:
        layers: the gated layers in order.
        embeddings: for every layer a table with one row [N] per task.
        heads: one head per task.
        rows: the numbers of the rows of the tables, on the device of the model.
    """

    rows: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.convolutions = len(network.channels)
        self.dropout = network.dropout if network.kind == "alexnet" else network.dropout[1:]
        self.input_dropout = 0.0 if network.kind == "alexnet" else network.dropout[0]
        layers: list[nn.Module] = []
        features, size = network.input_shape[0], network.input_shape[-1]
        for units, kernel in zip(network.channels, kernels(size), strict=False):
            layers.append(nn.Conv2d(features, units, kernel))
            features, size = units, (size - kernel + 1) // 2
        features *= size * size if network.channels else 1
        layers += [nn.Linear(inputs, units) for inputs, units in pairwise((features, *network.hidden))]
        self.layers = nn.ModuleList(layers)
        self.embeddings = nn.ModuleList(nn.Embedding(TASKS, units) for units in network.units)
        self.heads = nn.ModuleList(nn.Linear(network.hidden[-1], network.classes) for _ in range(TASKS))
        self.register_buffer("rows", torch.arange(TASKS), persistent=False)  # a buffer moves with the model

    def forward(self, x: Tensor, task: int, scale: float) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, classes] and the gates [1, N] of every layer."""
        gates = self.gates(task, scale)
        h = F.dropout(x, self.input_dropout)
        for index, (layer, gate, probability) in enumerate(zip(self.layers, gates, self.dropout, strict=True)):
            if index == self.convolutions:
                h = h.flatten(1)
            h = F.dropout(F.relu(layer(h)), probability)
            if index < self.convolutions:
                h = F.max_pool2d(h, 2)
                gate = gate.view(1, -1, 1, 1)
            h = h * gate.expand_as(h)
        return self.heads[task](h), gates

    def gates(self, task: int, scale: float) -> list[Tensor]:
        """The gates [1, N] of every layer: `a = sigmoid(s e)`, equation 1."""
        row = self.rows[task : task + 1]
        return [torch.sigmoid(scale * F.embedding(row, table)) for table in self.tables()]

    def tables(self) -> list[nn.Parameter]:
        """The embeddings [tasks, N] of every layer."""
        return list(self.embeddings.parameters())

    def rates(self, used: Sequence[Tensor]) -> dict[str, Tensor]:
        """The factors of the gradients: `1 - min(used_out, used_in)`, equation 2.

        Args:
            used: for every layer a mask [N] of the units that finished tasks use.

        Returns:
            For every shared parameter, by name, a tensor of the parameter's shape.
        """
        rates: dict[str, Tensor] = {}
        inputs_used: Tensor | None = None
        for index, outputs_used in enumerate(used):
            weight = self.get_parameter(f"layers.{index}.weight")
            rows = outputs_used.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
            if inputs_used is None:
                rates[f"layers.{index}.weight"] = 1 - rows
            else:
                columns = inputs_used.repeat_interleave(weight.shape[1] // inputs_used.numel())
                columns = columns.view(1, -1, *[1] * (weight.dim() - 2)).expand_as(weight)
                rates[f"layers.{index}.weight"] = 1 - torch.min(rows, columns)
            rates[f"layers.{index}.bias"] = 1 - outputs_used
            inputs_used = outputs_used
        return rates


class Textbook(TrainingStep):
    """Training steps by the equations of the paper."""

    name = "textbook"
    model: GatedNetwork

    def __init__(self, network: Network, *, finished: Sequence[Tensor] | None = None) -> None:
        """Begin a task.

        Args:
            network: the network.
            finished: for every layer a mask [N] of the units that finished tasks use. None: there is no finished task.
        """
        self.model = GatedNetwork(network)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)
        self.used: list[Tensor] = []
        self.task, self.rates, self.scale = 0, {}, S_MAX
        if finished is not None:
            self.task, self.used = 1, list(finished)
            self.rates = self.model.rates(self.used)

    def forward(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        self.scale = 1 / S_MAX + (S_MAX - 1 / S_MAX) * progress
        logits, gates = self.model(x, self.task, self.scale)
        return F.cross_entropy(logits, y) + LAMB * self.penalty(gates)

    def update(self) -> None:
        self.lock()
        self.compensate(self.scale)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.clamp()

    def penalty(self, gates: Sequence[Tensor]) -> Tensor:
        """The penalty for used units: equations 4 and 5."""
        used = self.used or [torch.zeros_like(gate) for gate in gates]
        busy = torch.stack([(gate * (1 - u)).sum() for gate, u in zip(gates, used, strict=True)])
        return busy.sum() / torch.stack([(1 - u).sum() for u in used]).sum()

    def lock(self) -> None:
        """Multiply every gradient by the factors of `rates`."""
        for name, parameter in self.model.named_parameters():
            if name in self.rates and parameter.grad is not None:
                parameter.grad *= self.rates[name]

    def compensate(self, scale: float) -> None:
        """Compensate the gradients of the embeddings for the annealed scale: section 2.5."""
        for table in self.model.tables():
            assert table.grad is not None
            e = table.detach()
            numerator = torch.cosh(torch.clamp(scale * e, -CLAMP_COSH, CLAMP_COSH)) + 1
            table.grad *= S_MAX / scale * numerator / (torch.cosh(e) + 1)

    def clamp(self) -> None:
        """Clamp the embeddings."""
        for table in self.model.tables():
            table.data.clamp_(-CLAMP_EMBEDDING, CLAMP_EMBEDDING)
