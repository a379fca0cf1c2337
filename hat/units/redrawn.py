"""New values for parameters, as their modules would draw them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_RESETS = ("reset_parameters", "_reset_parameters", "reset_running_stats")
"""Methods by which modules draw new values."""
STD = 0.02  # small beside the activations of other layers; transformers start so


@torch.no_grad()
def drawn(modules: Iterable[nn.Module]) -> dict[Tensor, Tensor]:
    """New values for the parameters and buffers of these modules. The modules keep their old values.

    A module draws the values by its own `reset_parameters`. A parameter that none of its modules draws, as the
    parameter of a parametrization, is drawn from N(0, 0.02^2). A buffer that no module resets is left out.

    Args:
        modules: the modules, without their children, unless a child is listed itself.
    """
    drawn_values: dict[Tensor, Tensor] = {}
    for module in modules:
        for tensor, values in _reset(module).items():
            if tensor not in drawn_values or drawn_values[tensor].isnan().any():
                drawn_values[tensor] = values
    for tensor, values in drawn_values.items():
        unknown = values.isnan()
        if isinstance(tensor, nn.Parameter) and unknown.any():
            drawn_values[tensor] = torch.where(unknown, torch.empty_like(values).normal_(std=STD), values)
    return drawn_values


def _reset(module: nn.Module) -> dict[Tensor, Tensor]:
    """The values that the methods of a module give to its tensors; NaN if they leave a parameter as it is."""
    parameters = {name: p for name, p in module._parameters.items() if p is not None and _is_learned(p)}
    methods = [method for name in _RESETS if callable(method := getattr(module, name, None))]
    buffers = {name: b for name, b in module._buffers.items() if b is not None} if methods else {}
    # A method may also write to the tensors of children, or replace tensors by others.
    saved = [(t, t.clone(), t._version) for t in [*module.parameters(), *module.buffers()]] if methods else []
    if not methods:
        return {p: torch.full_like(p, torch.nan) for p in parameters.values()}
    try:
        for parameter in parameters.values():
            parameter.fill_(torch.nan)
        for method in methods:
            method()
        after = {**module._parameters, **module._buffers}
        tensors = {**parameters, **buffers}
        return {tensor: after[name].detach().clone() for name, tensor in tensors.items()}  # type: ignore[union-attr]
    finally:
        module._parameters.update(parameters)
        module._buffers.update(buffers)
        for tensor, before, version in saved:
            if tensor._version != version or not torch.equal(tensor, before):  # a write to `.data` counts no version
                tensor.copy_(before)


def _is_learned(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()
