"""Parameters as their modules would draw them anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_RESETS = ("reset_parameters", "_reset_parameters", "reset_running_stats")
"""Methods by which modules start anew."""
STD = 0.02  # small beside what other layers make, as transformers start


@torch.no_grad()
def drawn(modules: Iterable[nn.Module]) -> dict[Tensor, Tensor]:
    """New values for the parameters and buffers of these modules, which keep theirs.

    A module draws them by its own `reset_parameters`. A parameter that no module that has it draws, as that of a
    parametrization, is drawn from N(0, 0.02^2); a buffer that none resets is left out.

    Args:
        modules: each by itself; what is inside of it is not among them.
    """
    found: dict[Tensor, Tensor] = {}
    for module in modules:
        for tensor, values in _reset(module).items():
            if tensor not in found or found[tensor].isnan().any():
                found[tensor] = values
    for tensor, values in found.items():
        unknown = values.isnan()
        if isinstance(tensor, nn.Parameter) and unknown.any():
            found[tensor] = torch.where(unknown, torch.empty_like(values).normal_(std=STD), values)
    return found


def _reset(module: nn.Module) -> dict[Tensor, Tensor]:
    """What the module's own methods make of its own tensors; NaN where they leave a parameter as it is."""
    parameters = {name: p for name, p in module._parameters.items() if p is not None and _is_learned(p)}
    methods = [found for name in _RESETS if callable(found := getattr(module, name, None))]
    buffers = {name: b for name, b in module._buffers.items() if b is not None} if methods else {}
    # A method may reach further than its module, and put other tensors where there were some.
    kept = [(t, t.clone(), t._version) for t in [*module.parameters(), *module.buffers()]] if methods else []
    if not methods:
        return {p: torch.full_like(p, torch.nan) for p in parameters.values()}
    try:
        for parameter in parameters.values():
            parameter.fill_(torch.nan)
        for method in methods:
            method()
        now = {**module._parameters, **module._buffers}
        return {t: now[name].detach().clone() for name, t in {**parameters, **buffers}.items()}  # type: ignore[union-attr]
    finally:
        module._parameters.update(parameters)
        module._buffers.update(buffers)
        for tensor, before, version in kept:
            if tensor._version != version or not torch.equal(tensor, before):  # `.data` counts no versions
                tensor.copy_(before)


def _is_learned(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()
