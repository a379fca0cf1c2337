"""Single operations, each as stock PyTorch without HAT, as the textbook has it, and as ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

import hat_kernels
from benchmarks.workload import LR, MLP, S_MAX, used_units
from hat.units.blocks import Side, Sides, cut
from hat_kernels import GateForm, Lock
from hat_kernels.lock import rate

Call = Callable[[], object]


def gated_activation(batch: int, units: int = 2000, scale: float = 1.0) -> dict[str, Call]:
    """ReLU and gate of activations [batch, units], forward and backward; plain has no gate."""
    torch.manual_seed(0)
    x = torch.randn(batch, units, requires_grad=True)
    embedding = torch.randn(units, requires_grad=True)
    s, upstream = torch.tensor(scale), torch.randn(batch, units)

    def both(forward: Callable[[], Tensor]) -> Call:
        def run() -> None:
            x.grad = embedding.grad = None
            forward().backward(upstream)

        return run

    def textbook() -> Tensor:
        h = F.relu(x)
        return h * torch.sigmoid(scale * embedding).expand_as(h)

    def ours() -> Tensor:
        return hat_kernels.gated_activation(x, gate=GateForm(embedding=embedding, scale=s, s_max=S_MAX))

    return {"plain": both(lambda: F.relu(x)), "textbook": both(textbook), "ours": both(ours)}


def sgd_update(locked: float) -> dict[str, Call]:
    """One SGD step on the weights of the paper's MLP, gradients given; plain has no lock.

    Ours has the used units in front, and moves what lies behind them, as `hat.optim` does; those of the textbook are
    anywhere.
    """
    torch.manual_seed(0)
    shapes = [(units, inputs) for inputs, units in pairwise((*MLP.input_shape, *MLP.hidden))]
    used = used_units(MLP.hidden, locked)
    locks = [Lock(rows=1 - u, columns=None if index == 0 else 1 - used[0]) for index, u in enumerate(used)]
    rates = [rate(lock, torch.empty(s)).expand(s).contiguous() for lock, s in zip(locks, shapes, strict=True)]

    def weights() -> tuple[list[Tensor], torch.optim.SGD]:
        made = [torch.randn(shape, requires_grad=True) for shape in shapes]
        for weight in made:
            weight.grad = torch.randn_like(weight)
        return made, torch.optim.SGD(made, lr=LR)

    (_, plain), (theirs, stock), (mine, _) = weights(), weights(), weights()

    def textbook() -> None:
        if locked:  # the published code locks from the second task on
            for weight, mask in zip(theirs, rates, strict=True):
                assert weight.grad is not None
                weight.grad *= mask
        stock.step()

    with torch.no_grad():
        values, grads = _moving(mine, locked)

    @torch.no_grad()
    def ours() -> None:
        hat_kernels.sgd_update_(values, grads, [], [None] * len(values), lr=LR)

    return {"plain": plain.step, "textbook": textbook, "ours": ours}


def _moving(weights: Sequence[Tensor], locked: float) -> tuple[list[Tensor], list[Tensor]]:
    """What may move of weights whose used units are in front, and its gradients."""
    values: list[Tensor] = []
    grads: list[Tensor] = []
    for index, weight in enumerate(weights):
        rows, columns = (Side(torch.ones(n), locked=round(locked * n), in_order=True) for n in weight.shape)
        blocks = Sides(rows, columns if index else None).blocks(weight)  # the inputs of a first layer are no units
        assert weight.grad is not None
        values, grads = values + cut(weight, blocks), grads + cut(weight.grad, blocks)
    return values, grads


OPERATIONS: dict[str, Callable[[], dict[str, Call]]] = {
    "gated_activation, 64 x 2000, forward and backward": lambda: gated_activation(64),
    "gated_activation, 256 x 2000, forward and backward": lambda: gated_activation(256),
    "sgd_update_, MLP weights, 0 % locked": lambda: sgd_update(0.0),
    "sgd_update_, MLP weights, 50 % locked": lambda: sgd_update(0.5),
    "sgd_update_, MLP weights, 90 % locked": lambda: sgd_update(0.9),
}
