"""Which of a finished task's own values the task really reads.

A task keeps values of its own for every unit, for example the weight and bias of its norms. For a unit that the task
does not use, the gate multiplies the result by an exact 0, so the value has no effect. Example: a norm of 4 channels
behind a gate with the mask [1, 0, 1, 0]. The task reads the elements 0 and 2 of the norm's weight; the elements 1 and 3
may have any finite value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hat.network.network import Network
from hat.units.per_task import PerTask, per_task
from hat.units.sides import uses_of


class Stack(NamedTuple):
    """The values that all finished tasks have for one tensor of a `PerTask`.

    Attributes:
        name: the name of the values in the model's `state_dict`.
        module: the owner of the tensor.
        values: [T, ...], the values of every finished task.
        initial: [...], the values that every task starts from.
        read: [T, ...] bool, whether a task reads an element.
    """

    name: str
    module: PerTask
    values: Tensor
    initial: Tensor
    read: Tensor


def stacks(model: Network) -> Iterator[Stack]:
    """Every tensor that finished tasks keep for themselves. A forgotten task reads no element."""
    uses, forgotten = uses_of(model.gates.values()), list(model.forgotten)
    for path, module in per_task(model.body).items():
        for name, values in module.stacks():
            read = torch.ones_like(values, dtype=torch.bool)
            for gate, member in uses.get((module, name), ()):
                on = (gate.masks[: len(values)] != 0).repeat_interleave(member.repeat, 1)
                if member.places is not None:
                    all_indices = on.new_ones(len(values), values.shape[1 + member.dim])
                    on = all_indices.index_copy(1, member.places.to(on.device), on)
                read &= on.view(len(values), *(-1 if d == member.dim else 1 for d in range(values.dim() - 1)))
            read[forgotten] = False
            full_name = ".".join(filter(None, ("body", path, f"{name}_tasks")))
            yield Stack(full_name, module, values, getattr(module, f"{name}_initial"), read)


def read_by_head(model: Network, task: int) -> Tensor:
    """[features] bool, whether a finished task reads a column of the weight of its head.

    All columns count as read if it is not known which units the features are.
    """
    head, outputs = model.heads[task], model.outputs
    if outputs is None or outputs.tasks <= task:
        assert isinstance(head, nn.Linear)
        return torch.ones(head.in_features, dtype=torch.bool, device=head.weight.device)
    return (outputs.masks[task] != 0).repeat_interleave(model.features // outputs.units)
