"""Which recording each function of torch gets when a module calls the function while it is recorded."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hat.tracing import dropouts_and_norms, in_place
from hat.tracing.calls import Recording, record
from hat.tracing.sizes import plain
from hat.tracing.substitutes import assigned
from hat.tracing.trees import replaced, tensors

_READERS = {
    "item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__bool__", "__int__", "__float__", "__index__",
    "__complex__", "__contains__", "__array__", "__dlpack__",
}  # fmt: skip
_OF_THE_OBJECT = {"__hash__", "__repr__", "__format__", "__reduce_ex__", "__dir__", "_set_grad_enabled", "_assert"}


def call(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Record a call of `function` and return its answer.

    Raises:
        ConversionError: a graph cannot do what the function does.
    """
    name = function.__name__
    if name in _OF_THE_OBJECT:
        return function(*args, **kwargs)
    if name in ("__get__", "__set__", "__delete__"):
        return _attribute(recorder, name, function.__self__.__name__, args[0])
    if name in ("size", "numel", "nelement"):
        return _size(recorder, name, *args, **kwargs)
    if name == "__len__" and recorder.nodes.is_of_input(recorder.nodes.of(args[0])):  # Python makes it a plain number
        recorder.nodes.burn()
    if name in _READERS:
        return _read(recorder, function, args, kwargs)
    if name == "__setitem__":
        return _assign(recorder, *args)
    if function in dropouts_and_norms.FUNCTIONS:
        return dropouts_and_norms.FUNCTIONS[function](recorder, function, args, kwargs)
    if kwargs.get("out") is not None:
        raise recorder.nodes.refuse(f"{name} writes to `out`; take what it returns")
    if in_place.is_in_place(name, kwargs):
        return in_place.call(recorder, function, args, kwargs)
    return record(recorder, function, args, kwargs)


def _attribute(recorder: Recording, how: str, name: str, tensor: Tensor) -> Any:
    """A read of an attribute; writes are refused."""
    if how != "__get__":
        raise recorder.nodes.refuse(f"sets {name} of a tensor; make a new one")
    if name == "shape":
        return recorder.nodes.sizes(tensor)
    with recorder.paused():
        value = getattr(recorder.nodes.value(tensor), name)
    return recorder.record("call_function", getattr, (tensor, name), {}) if isinstance(value, Tensor) else value


def _size(recorder: Recording, name: str, tensor: Tensor, dim: int | None = None) -> Any:
    sizes = recorder.nodes.sizes(tensor)
    if name == "size":
        return sizes if dim is None else sizes[dim]
    count: Any = 1
    for size in sizes:
        count = size * count
    return count


def _read(recorder: Recording, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call that turns values of a tensor into Python numbers. The numbers are constants in the graph.

    Raises:
        ConversionError: the values depend on the inputs or on parameters.
    """
    if any(recorder.nodes.depends(value) for value in tensors((args, kwargs))):
        raise recorder.nodes.refuse(
            f"{function.__name__} makes Python depend on values that change; use torch.where or a tensor"
        )
    with recorder.paused():
        args = replaced(args, lambda value: recorder.nodes.value(value) if isinstance(value, Tensor) else plain(value))
        return function(*args, **kwargs)


def _assign(recorder: Recording, tensor: Tensor, index: Any, value: Any) -> None:
    """`tensor[index] = value` as a new tensor, for constant tensors, as a mask that is filled part by part.

    Raises:
        ConversionError: the tensor, the index or the value depends on the inputs or on parameters.
    """
    with recorder.paused():
        if any(recorder.nodes.depends(part) for part in tensors((tensor, index, value))):
            raise recorder.nodes.refuse(
                "assigns to a part of a tensor; make a new one, by torch.cat, torch.where or slice_scatter"
            )
    recorder.become(tensor, recorder.record("call_function", assigned, (tensor, index, value), {}))
