"""Single operations in several variants: plain PyTorch without HAT, the textbook, and ours."""

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
"""Takes weights and their gradients, and returns the call that updates the weights."""


def gated_activation(batch: int, units: int = 2000, scale: float = 1.0) -> dict[str, Call]:
    """ReLU and gate on activations [batch, units], forward and backward. Plain has no gate."""
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
    """One SGD step, see `_update`. With momentum, ours also runs under `hat_kernels.backend("compiled")`."""

    def ours(values: list[Tensor], grads: list[Tensor]) -> Call:
        buffers = [torch.zeros_like(value) for value in values] if momentum else []
        locks = [None] * len(values)
        return lambda: hat_kernels.sgd_update_(values, grads, buffers, locks, lr=LR, momentum=momentum)

    stock = partial(torch.optim.SGD, lr=LR, momentum=momentum)
    return _update(locked, stock, {OURS: ours, COMPILED: _compiled(ours)} if momentum else {OURS: ours})


def adamw_update(locked: float) -> dict[str, Call]:
    """One AdamW step, see `_update`. Ours also runs under `hat_kernels.backend("compiled")`."""

    def ours(values: list[Tensor], grads: list[Tensor]) -> Call:
        moments = [[torch.zeros_like(value) for value in values] for _ in range(2)]
        steps = [torch.zeros(()) for _ in values]
        return lambda: hat_kernels.adamw_update_(values, grads, *moments, [], steps, [None] * len(values), lr=LR)

    return _update(locked, partial(torch.optim.AdamW, lr=LR), {OURS: ours, COMPILED: _compiled(ours)})


def _compiled(make: Maker) -> Maker:
    """The same step under `hat_kernels.backend("compiled")`."""

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
    """One step of an optimizer on the weights of the paper's MLP, with given gradients.

    Plain has no locks. For the textbook, the used units are anywhere. For ours, the used units are at the front, and
    only the blocks of weights behind them move, as in `hat.optim`.

    Args:
        locked: the share of the units that finished tasks use.
        stock: makes the optimizer of PyTorch.
        ours: the makers of our steps, by variant.
    """
    torch.manual_seed(0)
    shapes = [(units, inputs) for inputs, units in pairwise((*MLP.input_shape, *MLP.hidden))]
    used = used_units(MLP.hidden, locked)
    locks = [Lock(rows=1 - u, columns=None if index == 0 else 1 - used[0]) for index, u in enumerate(used)]
    rates = [rate(lock, torch.empty(s)).expand(s).contiguous() for lock, s in zip(locks, shapes, strict=True)]

    def weights() -> list[Tensor]:
        weights_with_grad = [torch.randn(shape, requires_grad=True) for shape in shapes]
        for weight in weights_with_grad:
            weight.grad = torch.randn_like(weight)
        return weights_with_grad

    plain, textbook_weights = stock(weights()), weights()
    optimizer = stock(textbook_weights)

    def textbook() -> None:
        if locked:  # the published code does not lock in the first task
            for weight, mask in zip(textbook_weights, rates, strict=True):
                assert weight.grad is not None
                weight.grad *= mask
        optimizer.step()

    calls: dict[str, Call] = {PLAIN: plain.step, TEXTBOOK: textbook}
    for name, make in ours.items():
        with torch.no_grad():
            values, grads = _free_blocks(weights(), locked)
        calls[name] = torch.no_grad()(make(values, grads))  # an optimizer runs its step without gradients too
    return calls


def _free_blocks(weights: Sequence[Tensor], locked: float) -> tuple[list[Tensor], list[Tensor]]:
    """The blocks of the weights that are not locked, and their gradients. The used units are at the front."""
    values: list[Tensor] = []
    grads: list[Tensor] = []
    for index, weight in enumerate(weights):
        rows, columns = (Side(torch.ones(n), locked=round(locked * n), in_order=True) for n in weight.shape)
        blocks = Sides(rows, columns if index else None).blocks(weight)  # no gate is on the inputs of the first layer
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
