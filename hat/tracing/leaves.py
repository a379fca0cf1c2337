"""Which modules stay whole in a traced graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

# Without parameters, random in training and the identity in evaluation; under these names in many libraries.
_STOCHASTIC = {"DropPath", "StochasticDepth", "DropBlock", "DropBlock2d", "DropBlock3d", "DropConnect"}

_CONTRACTIONS = (nn.Linear, nn.modules.conv._ConvNd)


def is_leaf(module: nn.Module, name: str = "") -> bool:
    """A layer of `torch.nn` that computes what its class does, or a stochastic depth without parameters.

    Not so containers, what has modules inside, and a layer whose parameters are parametrized: they are traced through.
    """
    if type(module).__name__ in _STOCHASTIC:
        return next(module.parameters(), None) is None
    if next(module.children(), None) is not None or parametrize.is_parametrized(module) or "forward" in vars(module):
        return False
    return not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and not overrides_forward(module)


def overrides_forward(module: nn.Module) -> bool:
    """What the module computes is not said by a class of `torch.nn`."""
    return not str(getattr(type(module).forward, "__module__", "")).startswith("torch.nn.modules")


def hides_its_weight(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A linear layer or convolution of a derived class that applies a weight it computes from its own.

    A standardized weight, say. Such a layer stays whole: what is known of it is which units it has.
    """
    if not isinstance(module, _CONTRACTIONS) or not overrides_forward(module) or parametrize.is_parametrized(module):
        return False
    seen = _Weights(module.weight)
    with seen:
        module.forward(*args, **kwargs)
    return not seen.plain


class _Weights(TorchFunctionMode):
    """Whether a weight meets a contraction as it is."""

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
