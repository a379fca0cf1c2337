"""Rules of data movement: an operation that moves values is run on the labels, which then move in the same way.

Example: the labels [[1, 1, 2, 2]] after `reshape(2, 2)` are [[1, 1], [2, 2]].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hat.conversion.analysis import ZERO, Analysis, Args, Kwargs, ModuleRule, Rule, tensors
from hat.conversion.units import constant
from hat.conversion.values import Value
from hat.tracing.names import operation

_MOVES = (
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "T", "mT", "movedim", "adjoint"),
    *("unsqueeze", "squeeze", "expand", "broadcast_to", "contiguous", "clone", "detach", "alias", "ravel"),
    *("repeat", "tile", "roll", "flip", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("native_channel_shuffle", "rot90", "lift_fresh_copy"),
)
_SELECTS = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "narrow", "select", "slice", "index_select")
LIKE = ("view_as", "reshape_as", "expand_as")
JOINS = ("cat", "stack", "hstack", "vstack", "dstack")


def moves(node: fx.Node, network: nn.Module) -> bool:
    """Whether a node moves integers in the same way as values, whatever their values are."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), _SHUFFLES)
    return operation(node) in (*_MOVES, *_SELECTS, *LIKE, *JOINS, "getitem")


def _move(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if not isinstance(value, Value) or any(True for _ in tensors((args[1:], kwargs))):
        return None
    if any(isinstance(arg, torch.dtype) for arg in (*args[1:], *kwargs.values())):  # a view of the bits
        return None
    moved = run_on(analysis.labels(value), node, args[1:], kwargs)
    return _like(value, moved)


def _select(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    value = args[0]
    if not isinstance(value, Value) or any(True for _ in tensors((args[1:], kwargs))):
        return None
    labels = analysis.labels(value)
    moved = run_on(labels, node, args[1:], kwargs)
    _tell_apart(analysis, labels, [moved] if isinstance(moved, Tensor) else moved)
    return _like(value, moved)


def _getitem(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    value, index = args
    if not isinstance(value, Value):
        item = value[index]
        return replace(item) if isinstance(item, Value) else item  # a copy, because every node has a value of its own
    labels = analysis.labels(value)
    if any(True for _ in tensors(index)):
        index_changes = any(analysis.depends(tensor) for tensor in tensors(index))
        index = fx.map_arg(node.args[1], lambda n: analysis.concrete[n])
        if any(tensor.is_meta for tensor in tensors(index) if isinstance(tensor, Tensor)):
            return None
        if index_changes and not _same_everywhere(labels, index):
            return None
    moved = labels[index]
    _tell_apart(analysis, labels, [moved])
    return _like(value, moved)


def _same_everywhere(labels: Tensor, index: Any) -> bool:
    """Whether the labels are the same along all dimensions in which a tensor picks elements.

    Then the picked labels do not depend on the values of the tensor.
    """
    items = index if isinstance(index, tuple) else (index,)
    if any(item is Ellipsis or item is None for item in items):
        return all(constant(labels, dim) for dim in range(labels.dim()))
    first_dim = 0
    for item in items:
        dims = item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1
        if isinstance(item, Tensor) and not all(constant(labels, dim) for dim in range(first_dim, first_dim + dims)):
            return False
        first_dim += dims
    return True


def _move_like(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    value, like = args
    if not isinstance(value, Value) or not isinstance(like, Value):
        return None
    labels = analysis.labels(value)
    return _like(value, labels.expand(like.shape) if "expand" in str(node.target) else labels.reshape(like.shape))


def _join(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    values: Sequence[Any] = args[0] if args else kwargs["tensors"]
    if not all(isinstance(value, Value) for value in values):
        return None
    labels = [analysis.labels(value) for value in values]
    labelled = [value for value in values if not value.is_parameter and value.labels is not None]
    given = {key: value for key, value in kwargs.items() if key != "tensors"}
    if not labelled and all(
        value.is_parameter or _is_constant(source) for value, source in zip(values, _nodes(node), strict=True)
    ):
        names = frozenset[str]().union(*(value.parameters for value in values))
        moved = run_on(labels, node, args[1:], given)
        return Value(moved.shape, moved, parameters=names)
    if not labelled:
        for value in values:
            analysis.make_per_task(value)
        return Value(analysis.concrete[node].shape)
    if any(value.gated for value in labelled):
        for value in labelled:
            analysis.demand(value)
    moved = run_on(labels, node, args[1:], given)
    gated = all(value.gated for value in labelled) and not any(value.is_parameter for value in values)
    return Value(moved.shape, moved, gated)


def _nodes(node: fx.Node) -> Sequence[Any]:
    """The nodes whose tensors a node joins."""
    return node.args[0] if node.args else node.kwargs["tensors"]  # type: ignore[return-value]


def _is_constant(node: Any) -> bool:
    """Whether a node reads an attribute of the network: a buffer, if it is not a parameter."""
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _pad(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    names = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
    value, mode, filling = names["input"], names.get("mode", "constant"), names.get("value")
    if not isinstance(value, Value):
        return None
    return pad(analysis, value, names["pad"], mode, filling or 0.0)


def pad(analysis: Analysis, value: Value, widths: Sequence[int], mode: str, filling: float) -> Value:
    """A padding. Zeros get the label `ZERO`, and repeated elements their label; another number belongs to no unit."""
    labels = analysis.labels(value)
    if mode == "constant":
        moved = F.pad(labels, list(widths), value=ZERO if filling == 0 else 0)
    else:
        moved = F.pad(labels.double(), list(widths), mode=mode).long()
    return _like(value, moved)


def _unfold(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    """`Tensor.unfold`, which makes views, and `F.unfold`, which takes patches of images that are padded with zeros."""
    if node.op == "call_method":
        return _move(analysis, node, args, kwargs)
    if any(True for _ in tensors((args[1:], kwargs))):
        return None
    shifted = (analysis.labels(args[0]) - ZERO).double()  # shifted, so that a padding with 0 gets the label `ZERO`
    return _like(args[0], F.unfold(shifted, *args[1:], **kwargs).long() + ZERO)


def _unfold_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    return _like(args[0], module((analysis.labels(args[0]) - ZERO).double()).long() + ZERO)


def _pad_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    kind = type(module).__name__
    mode = next((mode for start, mode in _PAD_MODES.items() if kind.startswith(start)), "constant")
    return pad(analysis, args[0], module.padding, mode, getattr(module, "value", 0.0))


def _move_module(analysis: Analysis, node: fx.Node, module: Any, args: Args, kwargs: Kwargs) -> Any:
    return _like(args[0], module(analysis.labels(args[0])))


def run_on(labels: Any, node: fx.Node, args: Sequence[Any], kwargs: Kwargs) -> Any:
    """The result of the node's operation on labels."""
    if operation(node) == "view":  # labels are often expanded, and an expanded tensor cannot always be viewed
        return labels.reshape(*args, **kwargs)
    if node.op == "call_method":
        return getattr(labels, str(node.target))(*args, **kwargs)
    if node.target is getattr:
        return getattr(labels, str(args[0]))
    assert callable(node.target)
    return node.target(labels, *args, **kwargs)


def _like(value: Value, moved: Any) -> Any:
    if isinstance(moved, Tensor):
        return Value(moved.shape, moved, value.gated, value.parameters)
    return tuple(_like(value, part) for part in moved)


def _tell_apart(analysis: Analysis, labels: Tensor, parts: Sequence[Tensor]) -> None:
    """Units of different parts may not change places with each other, nor with units of no part.

    The nodes that follow may treat the parts differently.
    """
    if all(constant(labels, dim) for dim in range(labels.dim())):
        return
    if len(parts) == 1 and parts[0].numel() == labels.numel():
        return
    for number, part in enumerate(parts):
        analysis.units.part(part.clamp(min=0), torch.tensor(number))


RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_SELECTS, _select),
    **dict.fromkeys(LIKE, _move_like),
    **dict.fromkeys(JOINS, _join),
    "getitem": _getitem,
    "pad": _pad,
    "unfold": _unfold,
}

_PADS = (
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
)
_PAD_MODES = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
_SHUFFLES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
MODULES: dict[type[nn.Module], ModuleRule] = {
    **dict.fromkeys(_PADS, _pad_module),
    **dict.fromkeys(_SHUFFLES, _move_module),
    nn.Unfold: _unfold_module,
}
