"""What a task keeps of a network's weights: the measure of compression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from hat.life.model import HATModel
from hat.units.along import sides_of, uses_of
from hat.units.gate import Gate
from hat.units.locks import locked_elements, sides, unlocked
from hat.units.per_task import per_task
from hat_kernels import Lock


@dataclass(frozen=True)
class WeightsKept:
    """How many elements of a network's parameters a task computes with.

    Attributes:
        kept: that many.
        total: elements of all parameters that the task computes with when every unit is on, its head among them.
    """

    kept: int
    total: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.kept / self.total

    def __str__(self) -> str:
        return f"{self.kept:,} of {self.total:,} weights kept, {self.share:.2%}"


def weights_kept(model: HATModel, task: int | None = None) -> WeightsKept:
    """Count the weights between units that a task has switched on.

    Element W[i, j] is kept where the hardened gates of output i and of input j are both 1; one of a bias or a norm with
    its unit. What no gate knows counts as on: the inputs of a first layer, the outputs of a head, a parameter along no
    axis. Of inputs that are sums of several gates' units one of them is enough. Embeddings are no weights.

    Args:
        model: any, while it learns a task or between tasks; it is left as it is.
        task: a finished task, or the current one as `end_task` would commit it; by default the current one.

    Raises:
        TypeError: `model` is not a `HATModel`, or `task` is not an int.
        RuntimeError: no task is being learned and `task` is None.
        ValueError: there is no such task, or it is forgotten.
    """
    if not isinstance(model, HATModel):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    task = model.task if task is None else model.check_task(task)
    current = model.learning and task == model.task
    off = {gate: _off(gate.hardened() if current else gate.masks[task]) for gate in model.gates.values()}
    parts = [*_shared(model, off), *_own(model, off), *_head(model, task, off)]
    return WeightsKept(sum(kept for kept, _ in parts), sum(total for _, total in parts))


def _off(mask: Tensor) -> Tensor:
    return (mask <= 0.5).float()


Counts = Iterator[tuple[int, int]]
"""(kept, total) elements of every parameter."""


def _shared(model: HATModel, off: dict[Gate, Tensor]) -> Counts:
    for parameter, side in sides(model.body, off).items():
        yield locked_elements(side.lock, parameter), parameter.numel()
    for parameter in unlocked(model.body).values():
        yield parameter.numel(), parameter.numel()


def _own(model: HATModel, off: dict[Gate, Tensor]) -> Counts:
    """What every task has of its own, as norms."""
    for module in per_task(model.body).values():
        for name, parameter in module.named_parameters(recurse=False):
            uses = [use for use in uses_of(module, name) if use[0] in off]
            yield locked_elements(sides_of(uses, parameter.shape, off).lock, parameter), parameter.numel()


def _head(model: HATModel, task: int, off: dict[Gate, Tensor]) -> Counts:
    head = model.heads[task]
    assert isinstance(head, nn.Linear)
    outputs = model.outputs
    units = Lock() if outputs is None else Lock(None, off[outputs], 1, model.features // outputs.units)
    yield locked_elements(units, head.weight), head.weight.numel()
    yield head.bias.numel(), head.bias.numel()
