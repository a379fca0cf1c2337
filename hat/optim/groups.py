"""Parameter groups of optimizers that are kept over many tasks, each of which brings a head and leaves it behind.

A group that loses all of its parameters stays in its place, because learning-rate schedulers know groups by their
number. The next group that is added takes this place, so that the number of groups does not grow with the tasks.

Example: an optimizer is made for the body and the head of task 0, in two groups.

    task 0                         [body], [head 0]
    after `end_task()`             [body], []          the second group is left empty
    `add_param_group` for head 1   [body], [head 1]    a `LambdaLR` of two groups goes on with both
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch


def drop(optimizer: torch.optim.Optimizer, frozen: Container[int]) -> None:
    """Remove parameters from an optimizer. Otherwise every step would visit the heads of all finished tasks.

    Args:
        optimizer: any optimizer that treats its parameters one by one.
        frozen: the `id` of every parameter to remove.
    """
    for parameter in [parameter for parameter in optimizer.state if id(parameter) in frozen]:
        del optimizer.state[parameter]
    for number, group in enumerate(optimizer.param_groups):
        kept = [parameter for parameter in group["params"] if id(parameter) not in frozen]
        if group["params"] and not kept:
            left_empty(optimizer).append(number)
        group["params"][:] = kept


def add_group(
    optimizer: torch.optim.Optimizer, append: Callable[[dict[str, Any]], None], param_group: dict[str, Any]
) -> None:
    """Add a parameter group, in the place of a group that `drop` has left empty, if there is one.

    Options that are not given are the defaults of the optimizer. But if a scheduler was made for the place (the group
    has an `initial_lr`), they stay as the scheduler has set them.

    Args:
        optimizer: the optimizer.
        append: its `add_param_group`, which checks the group and appends it.
        param_group: the new group.
    """
    given = set(param_group)
    append(param_group)
    if not left_empty(optimizer):
        return
    added, place = optimizer.param_groups.pop(), optimizer.param_groups[left_empty(optimizer).pop(0)]
    if "initial_lr" not in place:
        place.clear()
        place.update(added)
        return
    place.update({name: value for name, value in added.items() if name in given})
    if "lr" in given:
        place["initial_lr"] = added["lr"]


def left_empty(optimizer: torch.optim.Optimizer) -> list[int]:
    """The numbers of the groups that `drop` has left empty."""
    numbers: list[int] = vars(optimizer).setdefault("_left_empty", [])
    return numbers
