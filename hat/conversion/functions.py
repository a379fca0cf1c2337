"""What becomes of a function of torch that a module calls while it is recorded."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.conversion.dropped import DroppedAttention
from hat.conversion.sizes import plain

if TYPE_CHECKING:
    from hat.conversion.recorder import Recorder

ELEMENT = operator.getitem

_READERS = {
    "item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__bool__", "__int__", "__float__", "__index__",
    "__complex__", "__contains__", "__array__", "__dlpack__",
}  # fmt: skip
_OF_THE_OBJECT = {"__hash__", "__repr__", "__format__", "__reduce_ex__", "__dir__", "_set_grad_enabled", "_assert"}

_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "subtract": operator.sub, "mul": operator.mul, "multiply": operator.mul,
    "div": operator.truediv, "divide": operator.truediv, "true_divide": operator.truediv, "matmul": operator.matmul,
    "pow": operator.pow, "neg": operator.neg, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip

_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
    torch.dropout: nn.Dropout,
}

_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def call(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the function answers, recorded.

    Raises:
        ConversionError: a graph cannot do the same.
    """
    name = function.__name__
    if name in _OF_THE_OBJECT:
        return function(*args, **kwargs)
    if name in ("__get__", "__set__", "__delete__"):
        return _attribute(recorder, name, function.__self__.__name__, args)
    if name in ("size", "numel", "nelement"):
        return _size(recorder, name, *args, **kwargs)
    if name in _READERS:
        return _read(recorder, function, args, kwargs)
    if name in ("__setitem__", "__delitem__"):
        raise recorder.refuse(
            "assigns to a part of a tensor; make a new one, by torch.cat, torch.where or slice_scatter"
        )
    if function in _DROPOUTS:
        return _dropout(recorder, function, *args, **kwargs)
    if function is F.batch_norm:
        return _batch_norm(recorder, *args, **kwargs)
    if function is F.scaled_dot_product_attention:
        return _attention(recorder, args, kwargs)
    if function is F.multi_head_attention_forward:
        return _multi_head(recorder, args, kwargs)
    if kwargs.get("out") is not None:
        raise recorder.refuse(f"{name} writes to `out`; take what it returns")
    if changes_in_place(name, kwargs):
        return _in_place(recorder, function, args, kwargs)
    return _plain(recorder, function, args, kwargs)


def changes_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    """A function of this name and with these arguments writes to its first argument."""
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE


_IN_PLACE = {f"__i{name}__" for name in (
    "add", "sub", "mul", "truediv", "div", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul",
)}  # fmt: skip


def _plain(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = function.__name__
    if not kwargs and (found := _as_operator(name, args)) is not None:
        return recorder.record("call_function", *found, {})
    if getattr(Tensor, name, None) == function:
        return recorder.record("call_method", name, args, kwargs)
    return recorder.record("call_function", function, args, kwargs)


def _as_operator(name: str, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """The operator that Python has for it, so that one operation has one name in a graph."""
    if name in _OPERATORS and len(args) == (1 if name == "neg" else 2):
        return _OPERATORS[name], args
    if not name.startswith("__"):
        return None
    name = name.replace("div__", "truediv__") if name in ("__div__", "__rdiv__", "__idiv__") else name
    if (hasattr(operator, name) and not name.startswith("__i")) or name in ("__invert__",):
        return getattr(operator, name), args
    bare = f"__{name[3:]}"  # __radd__, __iadd__
    if name[2] in "ri" and hasattr(operator, bare):
        return getattr(operator, bare), args[::-1] if name[2] == "r" else args
    return None


def _attribute(recorder: Recorder, how: str, name: str, args: tuple[Any, ...]) -> Any:
    tensor = args[0]
    if how != "__get__":
        raise recorder.refuse(f"sets {name} of a tensor; make a new one")
    if name == "shape":
        return recorder.sizes(tensor)
    with recorder.paused():
        value = getattr(recorder.value(tensor), name)
    return recorder.record("call_function", getattr, (tensor, name), {}) if isinstance(value, Tensor) else value


def _size(recorder: Recorder, name: str, tensor: Tensor, dim: int | None = None) -> Any:
    sizes = recorder.sizes(tensor)
    if name == "size":
        return sizes if dim is None else sizes[dim]
    count: Any = 1
    for size in sizes:
        count = size * count
    return count


def _read(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Values become numbers of Python, for good: only those that are always the same."""
    read = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    if any(recorder.depends(each) for each in read):
        raise recorder.refuse(
            f"{function.__name__} makes Python depend on values that change; use torch.where or a tensor"
        )
    with recorder.paused():
        return function(*(recorder.value(each) if isinstance(each, Tensor) else plain(each) for each in args), **kwargs)


# -- what training changes ------------------------------------------------------------------------------------------


def _dropout(recorder: Recorder, function: Any, input: Tensor, p: float = 0.5, *args: Any, **kwargs: Any) -> Any:
    kwargs |= zip(("training", "inplace"), args, strict=False)
    training = kwargs.get("train", kwargs.get("training"))
    if training and not recorder.learning:  # in evaluation too
        return _plain(recorder, function, (input, p, True), {})
    if not training and recorder.learning:  # in training neither
        return input
    result = recorder.insert(_DROPOUTS[function](p), "functional_dropout", (input,), {})
    return recorder.become(input, result) if kwargs.get("inplace") else result


def _attention(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, args, strict=False)) | kwargs
    p = given.pop("dropout_p", 0.0)
    inputs = tuple(given.pop(name) for name in names[:3])
    given = {name: value for name, value in given.items() if value is not None and value is not False}
    if p and recorder.learning:
        return recorder.insert(DroppedAttention(p), "functional_attention", inputs, given)
    if p:
        given["dropout_p"] = p
    return recorder.record("call_function", F.scaled_dot_product_attention, inputs, given)


def _batch_norm(
    recorder: Recorder,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """A layer wherever it is one, as its statistics are of the batch in training and of the past in evaluation."""
    path, _, _ = (recorder.name_of(running_mean) or "").rpartition(".")
    owner = recorder.owners.get(path)
    known = all(each is None or recorder.name_of(each) for each in (running_var, weight, bias))
    is_layer = isinstance(owner, nn.modules.batchnorm._BatchNorm) or (recorder.learning and training)
    if owner is None or not path or not known or not is_layer:
        kwargs = {"weight": weight, "bias": bias, "training": training, "momentum": momentum, "eps": eps}
        return recorder.record("call_function", F.batch_norm, (input, running_mean, running_var), kwargs)
    norm = _NORMS[input.dim()](len(running_mean), eps, momentum, affine=False)  # type: ignore[arg-type]
    if isinstance(owner, nn.modules.batchnorm._BatchNorm):
        norm.__dict__.update({**vars(owner), "_modules": {}, "training": False})
        return recorder.stand_for(path, norm, (input,))
    norm.affine = weight is not None
    for name, tensor in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        setattr(norm, name, tensor)
    return recorder.insert(norm, "functional_batch_norm", (input,), {})


def _multi_head(recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the function does, call by call: it hides linear layers, and drops without saying so in evaluation."""
    original = F.multi_head_attention_forward
    known = {**original.__globals__, "has_torch_function": lambda tensors: False}
    body = types.FunctionType(original.__code__, known, original.__name__, original.__defaults__)
    body.__kwdefaults__ = original.__kwdefaults__
    given = inspect.signature(original).bind(*args, **kwargs)
    learning = recorder.learning
    if given.arguments["dropout_p"]:
        given.arguments["training"] = recorder.learning = True
    try:
        with recorder:
            return body(*given.args, **given.kwargs)
    finally:
        recorder.learning = learning


# -- in place -------------------------------------------------------------------------------------------------------


def _in_place(recorder: Recorder, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The new values are a tensor of their own, which the old object is from now on."""
    name = function.__name__
    target = args[0]
    result = _functional(recorder, function, name, args, {k: v for k, v in kwargs.items() if k != "inplace"})
    if result.dtype != recorder.value(target).dtype:
        result = recorder.record("call_method", "to", (result, recorder.value(target).dtype), {})
    return recorder.become(target, result, name in _RESHAPING)


def _functional(recorder: Recorder, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target = args[0]
    if name in _IN_PLACE or not name.endswith("_"):
        return _plain(recorder, function, args, kwargs)
    bare = name[:-1]
    if bare in ("zero", "fill"):
        return recorder.record("call_function", torch.full_like, (target, args[1] if bare == "fill" else 0), {})
    if bare == "copy":
        values = recorder.record("call_method", "expand_as", (args[1], target), {})
        return recorder.record("call_method", "to", (values, recorder.value(target).dtype), {})
    if getattr(Tensor, name, None) == function and bare not in _WITHOUT and hasattr(Tensor, bare):
        return _plain(recorder, getattr(Tensor, bare), args, kwargs)
    for home in (F, torch, torch._C._nn):
        if getattr(home, name, None) == function and hasattr(home, bare):
            return _plain(recorder, getattr(home, bare), args, kwargs)
    raise recorder.refuse(f"{name} changes a tensor in place; make a new one")


_RESHAPING = {"squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_", "detach_"}
_WITHOUT = {"set", "resize", "requires_grad", "share_memory", "uniform", "normal", "random", "retain_grad"}
