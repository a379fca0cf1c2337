"""What a finished task reads of what is its own: that of units which it does not use meets an exact 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hat.network.network import Network
from hat.units.per_task import PerTask, per_task


class Stack(NamedTuple):
    """What the finished tasks keep of one tensor of a `PerTask`.

    Attributes:
        name: in the model's `state_dict`.
        module: the owner.
        values: [T, ...].
        initial: [...], what every task starts from.
        read: [T, ...] bool, the elements that each task reads.
    """

    name: str
    module: PerTask
    values: Tensor
    initial: Tensor
    read: Tensor


def stacks(model: Network) -> Iterator[Stack]:
    """All that finished tasks keep for themselves; of a forgotten one nothing is read."""
    for path, module in per_task(model.body).items():
        for name, values in module.stacks():
            read = torch.ones_like(values, dtype=torch.bool)
            for gate in model.gates.values():
                for member in gate.members:
                    if member.module is module and member.name == name:
                        on = (gate.masks[: len(values)] != 0).repeat_interleave(member.repeat, 1)
                        if member.places is not None:
                            whole = on.new_ones(len(values), values.shape[1 + member.dim])
                            on = whole.index_copy(1, member.places.to(on.device), on)
                        read &= on.view(len(values), *(-1 if d == member.dim else 1 for d in range(values.dim() - 1)))
            read[list(model.forgotten)] = False
            full = ".".join(filter(None, ("body", path, f"{name}_tasks")))
            yield Stack(full, module, values, getattr(module, f"{name}_initial"), read)


def read_by_head(model: Network, task: int) -> Tensor:
    """[features] bool, the columns of the weight of a finished task's head that it reads: all, where nobody knows."""
    head, outputs = model.heads[task], model.outputs
    if outputs is None or outputs.tasks <= task:
        assert isinstance(head, nn.Linear)
        return torch.ones(head.in_features, dtype=torch.bool, device=head.weight.device)
    return (outputs.masks[task] != 0).repeat_interleave(model.features // outputs.units)
