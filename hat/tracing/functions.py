"""What becomes of a function of torch that a module calls while it is recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hat.tracing import dropouts_and_norms as training
from hat.tracing import in_place
from hat.tracing.errors import ConversionError
from hat.tracing.sizes import Real, Size, plain
from hat.tracing.substitutes import assigned
from hat.tracing.trees import flat, replaced, tensors

if TYPE_CHECKING:
    from hat.tracing.recorder import Recorder

_READERS = {
    "item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__bool__", "__int__", "__float__", "__index__",
    "__complex__", "__contains__", "__array__", "__dlpack__",
}  # fmt: skip
_OF_THE_OBJECT = {"__hash__", "__repr__", "__format__", "__reduce_ex__", "__dir__", "_set_grad_enabled", "_assert"}
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "subtract": operator.sub, "mul": operator.mul, "multiply": operator.mul,
    "div": operator.truediv, "divide": operator.truediv, "true_divide": operator.truediv, "matmul": operator.matmul,
    "pow": operator.pow, "neg": operator.neg, "negative": operator.neg, "eq": operator.eq, "ne": operator.ne,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def call(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the function answers, recorded.

    Raises:
        ConversionError: a graph cannot do the same.
    """
    name = function.__name__
    if name in _OF_THE_OBJECT:
        return function(*args, **kwargs)
    if name in ("__get__", "__set__", "__delete__"):
        return _attribute(recorder, name, function.__self__.__name__, args[0])
    if name in ("size", "numel", "nelement"):
        return _size(recorder, name, *args, **kwargs)
    if name == "__len__":  # Python makes a plain number of what it gets
        recorder.nodes.burn()
    if name in _READERS:
        return _read(recorder, function, args, kwargs)
    if name == "__setitem__":
        return _assign(recorder, *args)
    if function in training.FUNCTIONS:
        return training.FUNCTIONS[function](recorder, function, args, kwargs)
    if kwargs.get("out") is not None:
        raise recorder.nodes.refuse(f"{name} writes to `out`; take what it returns")
    if in_place.is_in_place(name, kwargs):
        return in_place.call(recorder, function, args, kwargs)
    return record(recorder, function, args, kwargs)


def record(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call that changes nothing, by the name that Python has for it if there is one."""
    name = function.__name__
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    if not _fits(recorder, args, kwargs):
        return function(*args, **kwargs)
    if not kwargs and (found := _operator(name, args)) is not None:
        return recorder.record("call_function", *found, {})
    if getattr(Tensor, name, None) == function:
        return recorder.record("call_method", name, args, kwargs)
    return recorder.record("call_function", function, args, kwargs)


def _fits(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A graph can hold the arguments; those that it cannot, and that no tensor is among, are made to a constant."""
    if any(isinstance(each, Tensor | Size | Real) for each in flat((args, kwargs))):
        return True
    try:
        recorder.nodes.argument((args, kwargs))
    except ConversionError:
        return False
    return True


def _operator(name: str, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    if name in _OPERATORS and len(args) == (1 if name.startswith("neg") else 2):
        return _OPERATORS[name], args
    if not name.startswith("__"):
        return None
    name = {"__div__": "__truediv__", "__rdiv__": "__rtruediv__", "__idiv__": "__itruediv__"}.get(name, name)
    plainly = f"__{name[3:]}"  # of __radd__ and __iadd__
    if name[2] in "ri" and name != "__invert__" and hasattr(operator, plainly):
        return getattr(operator, plainly), args[::-1] if name[2] == "r" else args
    return (getattr(operator, name), args) if hasattr(operator, name) else None


def _attribute(recorder: Recorder, how: str, name: str, tensor: Tensor) -> Any:
    if how != "__get__":
        raise recorder.nodes.refuse(f"sets {name} of a tensor; make a new one")
    if name == "shape":
        return recorder.nodes.sizes(tensor)
    with recorder.paused():
        value = getattr(recorder.nodes.value(tensor), name)
    return recorder.record("call_function", getattr, (tensor, name), {}) if isinstance(value, Tensor) else value


def _size(recorder: Recorder, name: str, tensor: Tensor, dim: int | None = None) -> Any:
    sizes = recorder.nodes.sizes(tensor)
    if name == "size":
        return sizes if dim is None else sizes[dim]
    count: Any = 1
    for size in sizes:
        count = size * count
    return count


def _read(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Values become numbers of Python, for good: only those that are always the same."""
    if any(recorder.nodes.depends(each) for each in tensors((args, kwargs))):
        raise recorder.nodes.refuse(
            f"{function.__name__} makes Python depend on values that change; use torch.where or a tensor"
        )
    with recorder.paused():
        args = replaced(args, lambda each: recorder.nodes.value(each) if isinstance(each, Tensor) else plain(each))
        return function(*args, **kwargs)


def _assign(recorder: Recorder, tensor: Tensor, index: Any, value: Any) -> None:
    """A mask that is filled part by part is one; an activation is not to be overwritten."""
    with recorder.paused():
        if any(recorder.nodes.depends(each) for each in tensors((tensor, index, value))):
            raise recorder.nodes.refuse(
                "assigns to a part of a tensor; make a new one, by torch.cat, torch.where or slice_scatter"
            )
    recorder.become(tensor, recorder.record("call_function", assigned, (tensor, index, value), {}))
