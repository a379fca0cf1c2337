"""Functions that write into a tensor, as functions that make a new one."""

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
# The function without the underscore is missing, or another one.
_ALONE = {"set_", "resize_", "requires_grad_", "share_memory_", "uniform_", "normal_", "random_", "bernoulli_"}


def is_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    """A function of this name and with these arguments writes to its first argument."""
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__")) or name in _OPERATORS


def call(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The new values are a tensor of their own, which the old object is from now on.

    Raises:
        ConversionError: no function makes them, or the object belongs to the network.
    """
    name, target = function.__name__, args[0]
    result = _new(recorder, function, name, args, kwargs)
    with recorder.paused():
        dtype, differs = recorder.nodes.value(target).dtype, result.dtype != recorder.nodes.value(target).dtype
    if differs:
        result = recorder.record("call_method", "to", (result, dtype), {})
    return recorder.become(target, result, same_values=name in _RESHAPING)


def _new(recorder: Recording, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
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
