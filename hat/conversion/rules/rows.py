"""Whether a layer computes each of its output units from the rows of that unit alone.

No set of values can show this: a layer may clip its weight by its largest row only if a row is very large. So the
recorded calls of the layer are walked instead, in every way that its code can go (`hat.tracing.ways`). Every element of
every tensor gets the number of the row that it is made from, or `NO_ROW`. Example, a layer with 2 rows:

    weight = self.weight - self.weight.mean(1, keepdim=True)
    return F.linear(x, weight / self.weight.std())

    node     shape   rows              what happens
    weight   [2, 3]  0 0 0, 1 1 1      a parameter: dimension 0 counts the rows
    mean     [2, 1]  0, 1              dimension 1 is reduced, and the rows do not vary along it
    sub      [2, 3]  0 0 0, 1 1 1      every element of row 0 meets the mean of row 0
    std                                both dimensions are reduced, but the rows vary along dimension 0: refused

An operation that is not listed here is refused too, if one of its arguments is made from a row. So a layer is accepted
only if every operation between its parameters and its outputs is known to keep rows apart. This does not depend on
values, and it holds for any number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.rules import elementwise, quotients
from hat.conversion.rules.movement import JOINS, LIKE, moves, run_on
from hat.conversion.units import constant
from hat.tracing.assembly import assembled
from hat.tracing.errors import ConversionError
from hat.tracing.names import operation
from hat.tracing.nodes import Nodes
from hat.tracing.trees import tensors
from hat.tracing.ways import ways

NO_ROW = -1
"""The label of elements that are made from no parameter."""


class _MixedError(Exception):
    """Elements of several rows meet, or no rule knows an operation."""


def keeps_rows_apart(module: nn.Module, x: Tensor) -> bool:
    """Whether every output unit of a linear layer or convolution depends only on its own rows of all parameters.

    Args:
        module: the layer, with its output units along dimension 0 of every parameter.
        x: an input.
    """
    rows = len(module.weight)  # type: ignore[arg-type]
    own = list(module.parameters(recurse=False))
    if any(parameter.shape[:1] != (rows,) for parameter in own) or any(True for _ in module.buffers()):
        return False
    if len(own) < len(list(module.parameters())):  # of a module inside, whose rows nobody would lock
        return False
    try:
        return all(_Walk(module, nodes, rows).is_apart() for nodes in ways(module, (x,)))
    except (ConversionError, _MixedError):
        return False


class _Walk:
    """A walk through one recording of a layer.

    Args:
        module: the layer.
        nodes: the recording.
        rows: the number of its rows.
    """

    def __init__(self, module: nn.Module, nodes: Nodes, rows: int) -> None:
        self.unit_dim = -1 if isinstance(module, nn.Linear) else 1
        self.nodes, self.rows = nodes, rows
        self.network = assembled(module, nodes)
        self.labels: dict[fx.Node, Any] = {}

    def is_apart(self) -> bool:
        """Whether every element of the output is made from the row of its unit, or from no row.

        Raises:
            _MixedError: this is not known.
        """
        for node in self.nodes.graph.nodes:
            if node.op != "output":
                self.labels[node] = self._of(node)
        answer = self.nodes.graph.output_node().args[0]
        if not isinstance(answer, fx.Node):
            return False
        labels = self.labels[answer]
        if labels is None:
            return True
        if not isinstance(labels, Tensor) or labels.shape[self.unit_dim] != self.rows:
            return False
        labels = labels.movedim(self.unit_dim, -1)
        return bool(((labels == torch.arange(self.rows)) | (labels == NO_ROW)).all())

    def _of(self, node: fx.Node) -> Any:
        """The rows of the elements of a node's value: a tensor, a tuple of tensors, or None if there are none."""
        if node.op == "placeholder":
            return None
        value = self.nodes.values[node]
        if node.op == "get_attr":
            numbers = torch.arange(self.rows).view(-1, *[1] * (value.dim() - 1))
            return numbers.expand(value.shape) if isinstance(value, nn.Parameter) else None
        labelled = [source for source in node.all_input_nodes if self.labels[source] is not None]
        if not labelled or not any(True for _ in tensors(value)):
            return None
        if operation(node) in _OF_SHAPE and labelled == [node.args[0]]:
            return None
        if moves(node, self.network) or operation(node) == "data":
            return self._moved(node, labelled)
        return self._computed(node, value, labelled)

    def _moved(self, node: fx.Node, labelled: list[fx.Node]) -> Any:
        """The rows after an operation that moves elements: it is run on the rows."""
        sources: Any = node.args[0] if node.args else node.kwargs["tensors"]
        joined = operation(node) in JOINS
        if operation(node) in LIKE:  # only the shape of the second argument is used
            labelled = [source for source in labelled if source is sources]
        if any(source not in (sources if joined else [sources]) for source in labelled):
            raise _MixedError  # values of rows say what is moved
        if not labelled:
            return None
        labels: Any = [self._full(source) for source in sources] if joined else self.labels[sources]
        if isinstance(labels, tuple):
            index: Any = node.args[1]
            return labels[index]
        args, kwargs = fx.map_arg((node.args[1:], dict(node.kwargs)), self.nodes.values.__getitem__)
        return run_on(labels, node, args, {key: value for key, value in kwargs.items() if key != "tensors"})

    def _full(self, source: fx.Node) -> Tensor:
        labels = self.labels[source]
        return torch.full(self.nodes.values[source].shape, NO_ROW) if labels is None else labels

    def _computed(self, node: fx.Node, value: Any, labelled: list[fx.Node]) -> Any:
        name = operation(node)
        is_dropout = node.op == "call_module" and isinstance(self.network.get_submodule(str(node.target)), nn.Dropout)
        arguments = [self._argument(node, 0, "input"), self._argument(node, 1, "other")]
        compares = name in ("max", "min") and isinstance(arguments[1], Tensor)
        if name in _ELEMENTWISE or is_dropout or compares:
            return self._merged(value.shape, (self.labels[source] for source in labelled))
        if name in _ALONG:
            (labels,) = self._only(labelled, self._node(node, 0, "input"))
            index, default = _ALONG[name]
            given = self._argument(node, index, "dim", "axis")
            dims = _dims(default if given is None else given, arguments[0].dim())
            return _each(value, lambda part: _reduced(labels, dims, part.shape))
        if name in _CONTRACTIONS and isinstance(value, Tensor):
            return self._contracted(node, value.shape, _CONTRACTIONS[name], labelled)
        if name == "batch_norm" and self._argument(node, 1, "running_mean") is None:
            return self._channel_norm(node, value.shape, labelled)
        raise _MixedError

    def _node(self, node: fx.Node, index: int, *names: str) -> Any:
        """An argument of a node, by its place or by one of its names; None if it is not given."""
        given = [node.kwargs[name] for name in names if name in node.kwargs]
        return node.args[index] if index < len(node.args) else given[0] if given else None

    def _argument(self, node: fx.Node, index: int, *names: str) -> Any:
        """The value of an argument."""
        return fx.map_arg(self._node(node, index, *names), self.nodes.values.__getitem__)

    def _only(self, labelled: list[fx.Node], *sources: Any) -> list[Any]:
        """The rows of these arguments; no other argument may have any."""
        if any(source not in sources for source in labelled):
            raise _MixedError
        return [self.labels[source] if isinstance(source, fx.Node) else None for source in sources]

    def _merged(self, shape: torch.Size, all_labels: Iterable[Tensor]) -> Tensor:
        """The rows of elements that are each made from one element of all arguments."""
        merged: Tensor | None = None
        for labels in all_labels:
            if not isinstance(labels, Tensor):
                raise _MixedError
            if merged is None:
                merged = labels
                continue
            one, other = torch.broadcast_tensors(merged, labels)
            if bool(((one != other) & (one != NO_ROW) & (other != NO_ROW)).any()):
                raise _MixedError
            merged = torch.maximum(one, other)
        assert merged is not None
        return merged.expand(shape)

    def _contracted(self, node: fx.Node, shape: torch.Size, kind: str, labelled: list[fx.Node]) -> Tensor:
        """The rows of a product of matrices, a linear function or a convolution."""
        left = self._node(node, 0, "input")
        right, bias = self._node(node, 1, "weight", "other", "mat2"), self._node(node, 2, "bias")
        x, weight, of_bias = self._only(labelled, left, right, bias)
        parts = []
        if kind == "matmul":
            if min(self.nodes.values[source].dim() for source in (left, right)) < 2:
                raise _MixedError
            parts += [_reduced(x, [-1], None)] if x is not None else []
            parts += [_reduced(weight, [-2], None)] if weight is not None else []
        elif x is not None:
            raise _MixedError
        else:
            parts += [self._along_channels(labels, kind) for labels in (weight, of_bias) if labels is not None]
        return self._merged(shape, parts)

    def _along_channels(self, labels: Tensor, kind: str) -> Tensor:
        """Rows along dimension 0 of a weight or bias, as they lie along the channels of the result."""
        channels = _reduced(labels, list(range(1, labels.dim())), labels.shape[:1])
        return channels.view(-1, *[1] * (0 if kind == "linear" else int(kind[4:5])))

    def _channel_norm(self, node: fx.Node, shape: torch.Size, labelled: list[fx.Node]) -> Tensor:
        """A batch norm of a weight: every channel is normalised by itself, over all other dimensions."""
        affine = [self._node(node, index, name) for index, name in ((3, "weight"), (4, "bias"))]
        x, *of_channels = self._only(labelled, node.args[0], *affine)
        dims = [dim for dim in range(len(shape)) if dim != 1]
        parts = [] if x is None else [_reduced(x, dims, None)]
        parts += [labels.view(1, -1, *[1] * (len(shape) - 2)) for labels in of_channels if labels is not None]
        return self._merged(shape, parts)


def _each(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A function of a tensor, or of every tensor in a tuple."""
    return function(value) if isinstance(value, Tensor) else tuple(map(function, value))


def _dims(given: Any, count: int) -> list[int]:
    """The dimensions that an operation runs over, of `count`; all of them if none is given."""
    if given is None or isinstance(given, bool):  # a bool is the argument `unbiased` of a variance
        return list(range(count))
    given = [given] if isinstance(given, int) else given
    if not isinstance(given, tuple | list) or not all(isinstance(dim, int) for dim in given):
        raise _MixedError
    return [dim % count for dim in given] or list(range(count))


def _reduced(labels: Any, dims: list[int], shape: torch.Size | None) -> Tensor:
    """The rows of elements that are made from all elements along dimensions.

    Args:
        labels: the rows of the elements.
        dims: the dimensions. The rows must not vary along them.
        shape: of the result: without the dimensions, or with the same number of dimensions. None keeps length 1.
    """
    if not isinstance(labels, Tensor) or not all(constant(labels, dim) for dim in dims):
        raise _MixedError
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    if shape is None:
        return labels
    return labels.expand(shape) if len(shape) == labels.dim() else labels.reshape(shape)


_OF_SHAPE = {"zeros_like", "ones_like", "rand_like", "randn_like", "new_zeros", "new_ones"}
"""Operations that use the shape of their first argument, but not its values."""
_ELEMENTWISE = {
    *elementwise.RULES,
    *quotients.RULES,
    *("where", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "logical_xor", "isnan"),
    *("isfinite", "isinf", "lerp", "addcmul", "addcdiv", "clamp_max", "remainder", "fmod", "ceil"),
    *("bool", "int", "long"),
    *("hypot", "atan2", "copysign", "tan", "sinh", "cosh", "log10", "frac", "sgn", "softsign", "threshold", "double"),
}
_ALONG: dict[str | None, tuple[int, int | None]] = {
    **dict.fromkeys(("sum", "mean", "std", "var", "std_mean", "var_mean", "amax", "amin", "prod", "nansum"), (1, None)),
    **dict.fromkeys(("max", "min", "median", "logsumexp", "argmax", "argmin", "all", "any"), (1, None)),
    **dict.fromkeys(("softmax", "log_softmax", "cumsum", "cumprod", "sort", "argsort"), (1, -1)),
    **dict.fromkeys(("norm", "linalg_vector_norm"), (2, None)),
    "normalize": (2, 1),
}
"""Operations over dimensions: the place of the argument that names the dimensions, and its default; None for all."""
_CONTRACTIONS: dict[str | None, str] = {
    "linear": "linear",
    **{f"conv{dims}d": f"conv{dims}d" for dims in (1, 2, 3)},
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), "matmul"),
}
