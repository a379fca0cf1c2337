"""Count the weights of a network that a task keeps: the measure of compression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from hat.arguments import check_arguments
from hat.life.model import HATModel
from hat.units.gate import Gate
from hat.units.locks import locked_elements, sides, unlocked
from hat.units.per_task import per_task
from hat.units.sides import sides_of, uses_of
from hat_kernels import Lock


@dataclass(frozen=True)
class WeightsKept:
    """How many elements of the parameters of a network a task computes with.

    Attributes:
        kept: the elements that the task computes with.
        total: the elements that the task would compute with if every unit were on, including its head.
    """

    kept: int
    total: int

    @property
    def share(self) -> float:
        """`kept / total`, in [0, 1]."""
        return self.kept / self.total

    def __str__(self) -> str:
        return f"{self.kept:,} of {self.total:,} weights kept, {self.share:.2%}"


def weights_kept(model: HATModel, task: int | None = None) -> WeightsKept:
    """Count the weights between units that a task has switched on.

    Element W[i, j] is kept if the hardened gates of output i and of input j are both 1. An element of a bias or a norm
    is kept if its unit is on. Units without a gate count as on: the inputs of a first layer, the outputs of a head, and
    parameters along no gate. If an input is the sum of units of several gates, it is on if one of these units is on.
    Embeddings do not count as weights.

    Args:
        model: may be learning a task. It is not changed.
        task: a finished task, or the current task, which is counted as `end_task` would commit it; by default the
            current task.

    Raises:
        TypeError: `model` is not a `HATModel`, or `task` is not an int.
        RuntimeError: no task is being learned and `task` is None.
        ValueError: there is no such task, or it is forgotten.
    """
    check_arguments(weights_kept, {"model": model})
    task = model.task if task is None else model.check_task(task)
    current = model.learning and task == model.task
    off = {gate: _off(gate.hardened() if current else gate.masks[task]) for gate in model.gates.values()}
    counts = [*_shared(model, off), *_per_task(model, off), *_head(model, task, off)]
    return WeightsKept(sum(kept for kept, _ in counts), sum(total for _, total in counts))


def _off(mask: Tensor) -> Tensor:
    return (mask <= 0.5).float()


Counts = Iterator[tuple[int, int]]
"""(kept, total) elements of every parameter."""


def _shared(model: HATModel, off: dict[Gate, Tensor]) -> Counts:
    for parameter, side in sides(model.body, off).items():
        yield locked_elements(side.lock, parameter), parameter.numel()
    for parameter in unlocked(model.body).values():
        yield parameter.numel(), parameter.numel()


def _per_task(model: HATModel, off: dict[Gate, Tensor]) -> Counts:
    """The parameters that every task has for itself, such as those of norms."""
    uses = uses_of(off)
    for module in per_task(model.body).values():
        for name, parameter in module.named_parameters(recurse=False):
            side = sides_of(uses.get((module, name), ()), parameter.shape, off)
            yield locked_elements(side.lock, parameter), parameter.numel()


def _head(model: HATModel, task: int, off: dict[Gate, Tensor]) -> Counts:
    head = model.heads[task]
    assert isinstance(head, nn.Linear)
    outputs = model.outputs
    units = Lock() if outputs is None else Lock(None, off[outputs], 1, model.features // outputs.units)
    yield locked_elements(units, head.weight), head.weight.numel()
    yield head.bias.numel(), head.bias.numel()
