"""Which modules become one node of a recorded graph, and which are replaced by the calls inside of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

# Many libraries have classes of these names: without parameters, random in training, the identity in evaluation.
_STOCHASTIC = {"DropPath", "StochasticDepth", "DropBlock", "DropBlock2d", "DropBlock3d", "DropConnect"}

_CONTRACTIONS = (nn.Linear, nn.modules.conv._ConvNd)


def is_leaf(module: nn.Module, name: str = "") -> bool:
    """Whether a module becomes one node of the graph.

    Layers of `torch.nn` do, and stochastic depth without parameters. A module is replaced by the calls inside of it if
    it is a container, has modules inside, has a forward of its own, or has parametrized parameters.
    """
    if type(module).__name__ in _STOCHASTIC:
        return next(module.parameters(), None) is None
    if next(module.children(), None) is not None or parametrize.is_parametrized(module) or "forward" in vars(module):
        return False
    return not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and not overrides_forward(module)


def overrides_forward(module: nn.Module) -> bool:
    """Whether the forward of a module comes from outside `torch.nn`."""
    return not str(getattr(type(module).forward, "__module__", "")).startswith("torch.nn.modules")


def sealed(module: nn.Module) -> str | None:
    """Why nobody can look into a module; None if one can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module cannot be looked into; convert the module it was made of"
    if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
        return "a compiled module cannot be looked into; convert first, compile afterwards"
    return None


def hides_its_weight(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a linear layer or convolution computes the weight that it applies from its parameter `weight`.

    Weight standardization is an example. Such a layer becomes one node, because then its units are known: they are
    the rows of its parameter.
    """
    if not isinstance(module, _CONTRACTIONS) or not overrides_forward(module) or parametrize.is_parametrized(module):
        return False
    weights = _Weights(module.weight)
    with weights:
        module.forward(*args, **kwargs)
    return not weights.plain


class _Weights(TorchFunctionMode):
    """Watches whether a weight is an argument of a linear function or a convolution.

    Attributes:
        plain: the weight was such an argument, unchanged.
    """

    functions = (F.linear, torch.conv1d, torch.conv2d, torch.conv3d, *(
        getattr(torch, f"conv_transpose{n}d") for n in (1, 2, 3)
    ))  # fmt: skip

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.plain = weight, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.functions:
            self.plain |= (args[1] if len(args) > 1 else kwargs["weight"]) is self.weight
        return func(*args, **kwargs)
