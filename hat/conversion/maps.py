"""Linear maps that a network writes as products, `x @ self.weight` or an einsum, become calls of `F.linear`.

Example: the `Conv1D` of transformers, whose weight [K, N] is the transpose of that of a `torch.nn.Linear`:

    x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)      as the network has it
    x = F.linear(x.view(-1, x.size(-1)), self.weight.t(), self.bias)     as the graph has it afterwards

The weight of such a call is a parameter [N, K], or the transpose of a parameter [K, N]. So `hat.conversion.modular`
makes one of two layers of it. The parameter stays the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from hat.tracing.names import operation

Parameter = Callable[[Any], Tensor | None]
"""The parameter that a node reads; None for any other node."""


def write_as_linear(graph: fx.Graph, concrete: Mapping[fx.Node, Any], parameter: Parameter) -> None:
    """Replace every product of a value made from inputs and a parameter of two dimensions by `F.linear`.

    Args:
        graph: changed in place.
        concrete: the value of every node on the example.
        parameter: see `Parameter`.
    """
    of_inputs: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op == "placeholder" or any(source in of_inputs for source in node.all_input_nodes):
            of_inputs.add(node)
        rewrite = _PRODUCTS.get(operation(node) or "")
        if rewrite is None:
            continue
        with graph.inserting_before(node):
            new = rewrite(_Product(graph, node, concrete, of_inputs, parameter))
        if new is not None:
            node.replace_all_uses_with(new)
            of_inputs.add(new)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def transposed(node: Any, parameter: Parameter) -> Any:
    """The node that reads a parameter of two dimensions, if `node` is the transpose of that parameter; else None."""
    if not isinstance(node, fx.Node) or not node.args:
        return None
    source, dims = node.args[0], list[Any]([*node.args[1:], *node.kwargs.values()])
    tensor = parameter(source)
    if tensor is None or tensor.dim() != 2:
        return None
    if operation(node) in ("t", "T", "mT", "adjoint", "numpy_T"):
        return source
    if operation(node) in ("transpose", "permute", "movedim") and all(map(_is_plain, dims)):
        listed = dims[0] if len(dims) == 1 else dims
        swaps = {dim % 2 for dim in listed} == {0, 1}
        return source if swaps and (operation(node) != "permute" or listed[0] % 2) else None
    return None


def _is_plain(dims: Any) -> bool:
    return isinstance(dims, int) or (isinstance(dims, tuple | list) and all(isinstance(dim, int) for dim in dims))


def words(equation: Any) -> tuple[list[str], str] | None:
    """The letters of the factors and of the result of an einsum; None if it is not written with letters alone."""
    if not isinstance(equation, str) or "." in equation:
        return None
    factors, arrow, out = equation.replace(" ", "").partition("->")
    if not arrow:  # all letters that are there once, in the order of the alphabet
        out = "".join(sorted(letter for letter in factors if factors.count(letter) == 1 and letter != ","))
    return factors.split(","), out


class _Product:
    """A node that may be a linear map, and how to write it as one."""

    def __init__(
        self,
        graph: fx.Graph,
        node: fx.Node,
        concrete: Mapping[fx.Node, Any],
        of_inputs: set[fx.Node],
        parameter: Parameter,
    ) -> None:
        self.graph, self.node, self.concrete = graph, node, concrete
        self.of_inputs, self.parameter = of_inputs, parameter

    def arguments(self, *names: str) -> list[Any]:
        """The arguments of the node by their names, None for those that are not given."""
        given = dict(zip(names, self.node.args, strict=False)) | dict(self.node.kwargs)
        return [given.get(name) for name in names]

    def is_weight(self, node: Any) -> bool:
        """Whether a node is a parameter of two dimensions, or the transpose of one."""
        tensor = self.parameter(node)
        return (tensor is not None and tensor.dim() == 2) or transposed(node, self.parameter) is not None

    def is_input(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and node in self.of_inputs

    def dims(self, node: fx.Node) -> int:
        return int(self.concrete[node].dim())

    def linear(self, x: Any, weight: Any, bias: Any = None) -> fx.Node:
        """`F.linear` of a weight that is laid out as of `F.linear`."""
        return self._with_place(self.graph.call_function(F.linear, (x, weight, bias)))

    def times(self, x: Any, weight: Any, bias: Any = None) -> fx.Node:
        """`F.linear` of a weight that is laid out as of `x @ weight`."""
        plain = transposed(weight, self.parameter)
        return self.linear(
            x, self._with_place(self.graph.call_method("t", (weight,))) if plain is None else plain, bias
        )

    def moved(self, x: Any, order: list[int]) -> Any:
        """The value with its dimensions in another order."""
        if order == sorted(order):
            return x
        return self._with_place(self.graph.call_method("permute", (x, *order)))

    def _with_place(self, node: fx.Node) -> fx.Node:
        node.meta = dict(self.node.meta)
        return node


def _matmul(product: _Product) -> fx.Node | None:
    x, weight = product.arguments("input", "mat2" if "mat2" in product.node.kwargs else "other")
    if product.is_input(x) and product.is_weight(weight):
        return product.times(x, weight)
    if product.is_input(weight) and product.is_weight(x) and product.dims(weight) > 1:
        # W x sums over the last dimension but one of x
        swapped = [*range(product.dims(weight) - 2), product.dims(weight) - 1, product.dims(weight) - 2]
        result = product.moved(product.linear(product.moved(weight, swapped), x), swapped)
        return result if isinstance(result, fx.Node) else None
    return None


def _addmm(product: _Product) -> fx.Node | None:
    bias, x, weight, beta, alpha = product.arguments("input", "mat1", "mat2", "beta", "alpha")
    if {beta, alpha} <= {None, 1} and product.is_input(x) and product.is_weight(weight):
        return product.times(x, weight, bias)
    return None


def _inner(product: _Product) -> fx.Node | None:
    x, weight = product.arguments("input", "other")
    return product.linear(x, weight) if product.is_input(x) and product.parameter(weight) is not None else None


def _tensordot(product: _Product) -> fx.Node | None:
    x, weight, dims = product.arguments("a", "b", "dims")
    if not product.is_input(x) or not product.is_weight(weight):
        return None
    if dims == 1:
        return product.times(x, weight)
    if not isinstance(dims, tuple | list) or any(not isinstance(d, tuple | list) or len(d) != 1 for d in dims):
        return None
    (of_x,), (of_weight,) = dims
    if of_x not in (-1, product.dims(x) - 1):
        return None
    return product.times(x, weight) if of_weight in (0, -2) else product.linear(x, weight)


def _einsum(product: _Product) -> fx.Node | None:
    """`F.linear` over the one letter that an input has and shares with a parameter, if the result lacks the letter."""
    args: tuple[Any, ...] = product.node.args
    operands = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if len(operands) != 2:
        return None
    parsed = words(_without_dots(args[0], operands, product))
    if parsed is None or len(parsed[0]) != 2:
        return None
    (left, right), out = parsed
    for x, letters, weight, of_weight in (
        (operands[0], left, operands[1], right),
        (operands[1], right, operands[0], left),
    ):
        if not product.is_input(x) or not product.is_weight(weight) or len(of_weight) != 2:
            continue
        shared = set(letters) & set(of_weight)
        if len(shared) != 1 or len(set(letters)) < len(letters) or len(set(of_weight)) < 2:
            return None
        (summed,) = shared
        (made,) = set(of_weight) - shared
        kept = letters.replace(summed, "")
        if sorted(out) != sorted(kept + made):
            return None
        value = product.moved(x, [letters.index(letter) for letter in kept + summed])
        result = (product.linear if of_weight[1] == summed else product.times)(value, weight)
        answer: fx.Node = product.moved(result, [(kept + made).index(letter) for letter in out])
        return answer
    return None


def _without_dots(equation: Any, operands: Any, product: _Product) -> Any:
    """An equation with capital letters in place of the dots of its input; the equation itself if it has none."""
    if not isinstance(equation, str) or "..." not in equation:
        return equation
    factors = equation.partition("->")[0].replace(" ", "").split(",")
    dotted = [index for index, factor in enumerate(factors) if "..." in factor]
    if len(dotted) != 1 or len(factors) != len(operands) or not product.is_input(operands[dotted[0]]):
        return None
    count = product.dims(operands[dotted[0]]) - len(factors[dotted[0]].replace("...", ""))
    unused = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    return equation.replace("...", "".join(unused[:count])) if "->" in equation else None


_PRODUCTS: dict[str, Callable[[_Product], fx.Node | None]] = {
    **dict.fromkeys(("matmul", "mm", "__matmul__"), _matmul),
    "addmm": _addmm,
    "inner": _inner,
    "tensordot": _tensordot,
    "einsum": _einsum,
}
