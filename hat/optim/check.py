"""Checks of what an optimizer is given: parameters, parameter groups, learning rates, and a state to load."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hat.arguments import check_number, got
from hat.life.model import HATModel
from hat.network.turns import living
from hat_kernels.check import check_rate, check_tensors
from hat_kernels.dispatch import free_to_read


def listed(params: Iterable[Any]) -> list[Any]:
    """The parameters or parameter groups in a list.

    Raises:
        TypeError: `params` is not iterable, or is a single tensor.
        ValueError: there is nothing in it, perhaps because a generator has been used before.
    """
    if not isinstance(params, Iterable) or isinstance(params, (Tensor, str, bytes, Mapping)):
        raise TypeError(f"params: expected parameters or parameter groups, got {got(params)}")
    entries = list(params)
    if not entries:
        raise ValueError("params: expected at least one parameter, got none; has a generator been used before?")
    if not isinstance(entries[0], dict):
        return entries
    for index, entry in enumerate(entries):
        check_group(f"params[{index}]", entry)
    return entries


def check_group(name: str, group: object) -> None:
    """Check that a parameter group is a dict with parameters.

    Raises:
        TypeError: it is not a dict, or its parameters are not a list.
        ValueError: it has no parameters.
    """
    if not isinstance(group, dict):
        raise TypeError(f"{name}: expected a parameter group, which is a dict, got {got(group)}")
    if "params" not in group:
        raise ValueError(f"{name}: expected parameters under 'params', got none")
    params = group["params"]
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes, Mapping, set)):
        raise TypeError(f"{name}['params']: expected a list of parameters, got {got(params)}")


def check_parameters(optimizer: torch.optim.Optimizer, parameters: list[Any]) -> None:
    """Check the parameters of a new group: tensors, or pairs of a name and a tensor.

    Raises:
        TypeError: a parameter is not a dense floating tensor.
        ValueError: a parameter is not a leaf, or the optimizer would hold it twice.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new: set[int] = set()
    for index, entry in enumerate(parameters):
        parameter = entry[1] if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) else entry
        check_tensors(**{f"params[{index}]": parameter})
        if not (parameter.is_leaf or parameter.retains_grad):
            raise ValueError(f"params[{index}]: expected a leaf of the graph, got the result of an operation")
        if id(parameter) in held | new:
            where = "more than one parameter group" if id(parameter) in held else "one parameter group twice"
            raise ValueError(f"params[{index}]: expected every parameter once, got {got(parameter)} in {where}")
        new.add(id(parameter))


def refuse_foreign(parameters: Iterable[Tensor], model: HATModel, argument: str) -> None:
    """Refuse parameters of another model, whose locks the optimizer does not know. Those of no model are welcome.

    Raises:
        ValueError: a parameter belongs to another living model, and not to `model`. The message names it.
    """
    foreign = {id(p) for p in parameters} - {id(p) for p in model.parameters()}
    for other in living() if foreign else ():
        for name, parameter in other.named_parameters():
            if id(parameter) in foreign and isinstance(other, HATModel) and other is not model:
                raise ValueError(
                    f"{argument}: expected parameters of one model, got {name} of another HATModel, "
                    "whose locks do not count here; make one optimizer for each model"
                )


def check_learning_rate(lr: float | Tensor, device: torch.device) -> None:
    """Check a learning rate: a number, or a tensor of one element, whose value is read if it lies on a CPU.

    Raises:
        TypeError: `lr` is a tensor, but not a dense floating one.
        ValueError: `lr` is not finite, is negative, or lies on another device.
    """
    check_rate(lr, device)
    if isinstance(lr, Tensor) and free_to_read(lr) and not 0 <= lr.item() < math.inf:
        raise ValueError(f"lr: expected a finite number >= 0, got a tensor of {lr.item()}")


def check_max_norm(max_norm: float | None) -> None:
    """Check the norm that gradients are clipped to.

    Raises:
        ValueError: it is neither None nor a number > 0.
    """
    if max_norm is not None:
        check_number("max_norm", max_norm, above=0, finite=False)


def check_state(optimizer: torch.optim.Optimizer, state_dict: object) -> None:
    """Check the form of a state before it is loaded: its groups, the number of their parameters, and their states.

    Raises:
        TypeError: it is not the `state_dict` of an optimizer.
        ValueError: it has other groups than the optimizer, or groups of another length.
    """
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    states = state_dict.get("state") if isinstance(state_dict, Mapping) else None
    if not isinstance(groups, (list, tuple)) or not isinstance(states, Mapping):
        raise TypeError(
            f"state_dict: expected that of an optimizer, with 'state' and 'param_groups', got {got(state_dict)}"
        )
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
            raise TypeError(f"state_dict: expected parameters in group {index}, got {got(group)}")
    saved, own = ([len(group["params"]) for group in side] for side in (groups, optimizer.param_groups))
    if saved != own:
        raise ValueError(f"state_dict: expected groups of {own} parameters, got {saved}")
    numbers = Counter(number for group in groups for number in group["params"])
    for number, state in states.items():
        if number in numbers and not isinstance(state, Mapping):
            raise TypeError(f"state_dict: expected the state of parameter {number} to be a dict, got {got(state)}")
