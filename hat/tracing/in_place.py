"""Functions that write into a tensor, recorded as functions that make a new tensor.

Example: `x.add_(y)` becomes the node `add(x, y)`. The object `x`, which the module goes on using, then stands for that
node.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.tracing.calls import Recording, record

_OPERATORS = {
    f"__i{name}__"
    for name in (
        "add",
        "sub",
        "mul",
        "div",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
    )
}
_RESHAPING = {"squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "detach_"}
# Without the underscore, these functions do not exist or do something else.
_ALONE = {"set_", "resize_", "requires_grad_", "share_memory_", "uniform_", "normal_", "random_", "bernoulli_"}


def is_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether a function with this name and these arguments writes to its first argument."""
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__")) or name in _OPERATORS


def call(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call that writes to its first argument, and return that argument, which stands for the new values.

    Raises:
        ConversionError: no function computes the new values as a new tensor, or the argument belongs to the network.
    """
    name, target = function.__name__, args[0]
    result = _new(recorder, function, name, args, kwargs)
    with recorder.paused():
        dtype, differs = recorder.nodes.value(target).dtype, result.dtype != recorder.nodes.value(target).dtype
    if differs:
        result = recorder.record("call_method", "to", (result, dtype), {})
    return recorder.become(target, result, same_values=name in _RESHAPING)


def _new(recorder: Recording, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The new values, as a new tensor."""
    if name in _OPERATORS or not name.endswith("_"):
        return record(recorder, function, args, kwargs)
    if name == "zero_":
        return recorder.record("call_function", torch.zeros_like, args, {})
    if name == "fill_":
        return recorder.record("call_function", torch.full_like, args, kwargs)
    if name == "copy_":
        return recorder.record("call_method", "expand_as", (args[1], args[0]), {})
    for home in (Tensor, F, torch):
        if name not in _ALONE and getattr(home, name, None) == function and hasattr(home, name[:-1]):
            return record(recorder, getattr(home, name[:-1]), args, kwargs)
    raise recorder.nodes.refuse(f"{name} changes a tensor in place; make a new one")
