"""Single operations, each as stock PyTorch without HAT, as the textbook has it, and as ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

import hat_kernels
from benchmarks.variants import COMPILED, OURS, PLAIN, TEXTBOOK
from benchmarks.workload import LR, MLP, S_MAX, used_units
from hat.units.blocks import Side, Sides, cut
from hat_kernels import GateForm, Lock
from hat_kernels.lock import rate

Call = Callable[[], object]
Maker = Callable[[list[Tensor], list[Tensor]], Call]
"""Makes a step of weights and their gradients."""


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

    return {PLAIN: both(lambda: F.relu(x)), TEXTBOOK: both(textbook), OURS: both(ours)}


def sgd_update(locked: float, momentum: float = 0.0) -> dict[str, Call]:
    """One SGD step, see `_update`; with momentum also under `hat_kernels.backend("compiled")`."""

    def ours(values: list[Tensor], grads: list[Tensor]) -> Call:
        buffers = [torch.zeros_like(value) for value in values] if momentum else []
        locks = [None] * len(values)
        return lambda: hat_kernels.sgd_update_(values, grads, buffers, locks, lr=LR, momentum=momentum)

    stock = partial(torch.optim.SGD, lr=LR, momentum=momentum)
    return _update(locked, stock, {OURS: ours, COMPILED: _compiled(ours)} if momentum else {OURS: ours})


def adamw_update(locked: float) -> dict[str, Call]:
    """One AdamW step, see `_update`; also under `hat_kernels.backend("compiled")`."""

    def ours(values: list[Tensor], grads: list[Tensor]) -> Call:
        moments = [[torch.zeros_like(value) for value in values] for _ in range(2)]
        steps = [torch.zeros(()) for _ in values]
        return lambda: hat_kernels.adamw_update_(values, grads, *moments, [], steps, [None] * len(values), lr=LR)

    return _update(locked, partial(torch.optim.AdamW, lr=LR), {OURS: ours, COMPILED: _compiled(ours)})


def _compiled(make: Maker) -> Maker:
    def compiled(values: list[Tensor], grads: list[Tensor]) -> Call:
        step = make(values, grads)

        def run() -> None:
            with hat_kernels.backend("compiled"):
                step()

        return run

    return compiled


def _update(
    locked: float,
    stock: Callable[[list[Tensor]], torch.optim.Optimizer],
    ours: dict[str, Maker],
) -> dict[str, Call]:
    """One step on the weights of the paper's MLP, gradients given; plain has no lock.

    Ours has the used units in front, and moves what lies behind them, as `hat.optim` does; those of the textbook are
    anywhere.
    """
    torch.manual_seed(0)
    shapes = [(units, inputs) for inputs, units in pairwise((*MLP.input_shape, *MLP.hidden))]
    used = used_units(MLP.hidden, locked)
    locks = [Lock(rows=1 - u, columns=None if index == 0 else 1 - used[0]) for index, u in enumerate(used)]
    rates = [rate(lock, torch.empty(s)).expand(s).contiguous() for lock, s in zip(locks, shapes, strict=True)]

    def weights() -> list[Tensor]:
        made = [torch.randn(shape, requires_grad=True) for shape in shapes]
        for weight in made:
            weight.grad = torch.randn_like(weight)
        return made

    plain, theirs = stock(weights()), weights()
    optimizer = stock(theirs)

    def textbook() -> None:
        if locked:  # the published code locks from the second task on
            for weight, mask in zip(theirs, rates, strict=True):
                assert weight.grad is not None
                weight.grad *= mask
        optimizer.step()

    calls: dict[str, Call] = {PLAIN: plain.step, TEXTBOOK: textbook}
    for name, make in ours.items():
        with torch.no_grad():
            values, grads = _moving(weights(), locked)
        calls[name] = torch.no_grad()(make(values, grads))  # an optimizer sets that itself
    return calls


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
    "sgd_update_ with momentum, MLP weights, 0 % locked": lambda: sgd_update(0.0, momentum=0.9),
    "adamw_update_, MLP weights, 0 % locked": lambda: adamw_update(0.0),
    "adamw_update_, MLP weights, 50 % locked": lambda: adamw_update(0.5),
}
