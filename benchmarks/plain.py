"""The variant `plain`: the networks without HAT in plain PyTorch. The cost of HAT is measured against it.

It consists of `nn.Sequential`, cross entropy, and `torch.optim.SGD` with its default implementation. There are no
gates, no penalty and no locks. Gradients are not clipped, because a user without HAT would not clip them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.converted import ConvertedNetwork
from benchmarks.step import TrainingStep
from benchmarks.workload import LR, Network


def build(network: Network | ConvertedNetwork) -> nn.Sequential:
    """The network as a user without HAT would write it."""
    if isinstance(network, ConvertedNetwork):
        return network.plain()
    return alexnet(network) if network.kind == "alexnet" else mlp(network)


def mlp(network: Network) -> nn.Sequential:
    """Dropout on the input; linear, ReLU and dropout for every hidden layer; one head."""
    (features,) = network.input_shape
    layers: list[nn.Module] = [nn.Dropout(network.dropout[0])]
    for (inputs, units), probability in zip(pairwise((features, *network.hidden)), network.dropout[1:], strict=True):
        layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(probability)]
    return nn.Sequential(*layers, nn.Linear(network.hidden[-1], network.classes))


def alexnet(network: Network) -> nn.Sequential:
    """Three convolutions with ReLU, dropout and max-pool; two linear layers with ReLU and dropout; one head."""
    inputs, size = network.input_shape[0], network.input_shape[-1]
    layers: list[nn.Module] = []
    for units, kernel, probability in zip(network.channels, kernels(size), network.dropout, strict=False):
        layers += [nn.Conv2d(inputs, units, kernel), nn.ReLU(), nn.Dropout(probability), nn.MaxPool2d(2)]
        inputs, size = units, (size - kernel + 1) // 2
    layers.append(nn.Flatten())
    inputs *= size * size
    for units, probability in zip(network.hidden, network.dropout[len(network.channels) :], strict=True):
        layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(probability)]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, network.classes))


def kernels(size: int) -> tuple[int, int, int]:
    """The kernel sizes of the paper's convolutions for images of `size` x `size`."""
    return size // 8, size // 10, 2


class Plain(TrainingStep):
    """Training steps without HAT."""

    name = "plain"

    def __init__(self, network: Network | ConvertedNetwork) -> None:
        self.model = build(network)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)

    def forward(self, x: Tensor, y: Tensor, progress: float) -> Tensor:
        return F.cross_entropy(self.model(x), y)
