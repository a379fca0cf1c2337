"""Everything that a model is, so that an operation that fails can be undone bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.network.network import Network
from hat.units.composed import SideBySide


class Snapshot:
    """The attributes of all modules of a model, and the values of all its tensors.

    Modules and tensors stay the same objects when they are put back.

    Args:
        model: the model.
        graphs: the graphs of converted bodies will change, too.
        assign: parameters will get other memory, and nobody writes to the memory that they have now.
    """

    def __init__(self, model: Network, *, graphs: bool, assign: bool) -> None:
        modules = list(model.modules())
        self._containers = [(module, _copied(module.__dict__)) for module in modules]
        side_by_side = [gate for m in modules if isinstance(gate := m.__dict__.get("gate"), SideBySide)]
        self._attributes = [(owner, dict(owner.__dict__)) for owner in dict.fromkeys(side_by_side)]
        networks = [m for m in modules if isinstance(m, fx.GraphModule)] if graphs else []
        self._graphs = [(network, copy.deepcopy(network.graph)) for network in networks]
        self._tensors = [
            (
                tensor,
                tensor.data,
                tensor.detach() if assign and isinstance(tensor, nn.Parameter) else tensor.detach().clone(),
                tensor.requires_grad,
                tensor.grad,
            )
            for tensor in dict.fromkeys([*model.parameters(), *model.buffers()])
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the model what it was."""
        for module, attributes in self._containers:
            _restore(module.__dict__, attributes)
        for owner, attributes in self._attributes:
            owner.__dict__.clear()
            owner.__dict__.update(attributes)
        for network, graph in self._graphs:
            network.graph = graph
        for tensor, data, values, trained, grad in self._tensors:
            give(tensor, data)
            if not (tensor.is_meta or torch.equal(tensor, values)):
                tensor.copy_(values)
            tensor.grad = grad
            tensor.requires_grad_(trained)


def give(tensor: Tensor, values: Tensor) -> None:
    """Let a tensor have the memory, dtype and device of `values`. It stays the same object, for all who hold it."""
    if tensor.is_meta == values.is_meta:
        tensor.grad = None
        tensor.data = values
    else:  # a tensor on the meta device is of another kind, and takes no other data
        new = nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values.detach()
        torch.utils.swap_tensors(tensor, new)


_CONTAINERS = (dict, list, set)


def _copied(attributes: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Every attribute, with a copy of it if it is a container."""
    return {
        name: (value, copy.copy(value) if type(value) in _CONTAINERS else None) for name, value in attributes.items()
    }


def _restore(attributes: dict[str, Any], saved: dict[str, tuple[Any, Any]]) -> None:
    attributes.clear()
    for name, (value, content) in saved.items():
        attributes[name] = value
        if content is not None:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)
