"""The graph of a converted network when it has other numbers of units: what says in numbers how many there are.

Only sizes do. Where a graph says the size of a dimension of units, as a reshape does, the new one comes there. Where it
asks for one, it goes on with the old one: a scale by the square root of a width is the same function only so. A size
that may depend on the batch, as that of all heads of all samples, changes in proportion.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from hat.conversion.body import Converted
from hat.tracing.names import operation
from hat.tracing.substitutes import DroppedAttention
from hat.units.layout import Layout, Unfit


def resize_graph(body: Converted, counts: Tensor) -> None:
    """Let the graph compute with other numbers of units.

    Args:
        body: its graph and its layouts change; modules are somebody else's affair.
        counts: [units] int64 through all gates, how many there are of each from now on.

    Raises:
        hat.units.layout.Unfit: the units of a value cannot get these counts.
    """
    old = body.layouts
    new = {name: _resized(layout, counts) for name, layout in old.items()}
    for node in list(body.network.graph.nodes):
        change = _CHANGES.get(operation(node) or "")
        if change is not None:
            change(_Sizes(old, new, counts), node)
        elif _is_dropped_attention(body.network, node):
            _keep_scale(_Sizes(old, new, counts), node)
    body.network.recompile()
    body.layouts = new
    kept = counts.clamp(max=1).bool()
    body.needed = body.needed[kept].repeat_interleave(counts[kept])


def _resized(layout: Any, counts: Tensor) -> Any:
    if isinstance(layout, tuple):
        return tuple(_resized(each, counts) for each in layout)
    return None if layout is None else layout.resized(counts)


class _Sizes:
    """The layouts of a graph before and after."""

    def __init__(self, old: dict[str, Any], new: dict[str, Any], counts: Tensor) -> None:
        self.old, self.new, self.counts = old, new, counts

    def changed(self, node: Any) -> tuple[Layout, Layout, int] | None:
        """Before, after, and the dimension whose length has changed; None where none has, or it has no units."""
        before = self.old.get(node.name) if isinstance(node, fx.Node) else None
        if not isinstance(before, Layout):
            return None
        after = self.new[node.name]
        dims = [dim for dim, size in enumerate(before.shape) if after.shape[dim] != size]
        return (before, after, dims[0]) if dims else None


def _shape(sizes: _Sizes, node: fx.Node) -> None:
    """`view(x, ...)`, `expand(x, ...)` and the like: sizes from the first on, or from a dimension on."""
    found = sizes.changed(node)
    if found is None:
        return
    before, after, dim = found
    lengths = before.shape[dim], after.shape[dim]
    if operation(node) == "unflatten":
        at, given = node.args[1], list(node.args[2])  # type: ignore[arg-type]
        first = int(at) if int(at) >= 0 else len(after.shape) - len(given) + int(at) + 1  # type: ignore[arg-type]
        node.args = (*node.args[:2], tuple(_replaced(node, given, dim - first, lengths)))
        return
    listed = len(node.args) == 2 and isinstance(node.args[1], tuple | list)
    given = list(node.args[1] if listed else node.args[1:])  # type: ignore[arg-type]
    given = _replaced(node, given, dim, lengths)
    node.args = (node.args[0], tuple(given)) if listed else (node.args[0], *given)


def _replaced(node: fx.Node, given: list[Any], place: int, lengths: tuple[int, int]) -> list[Any]:
    """Sizes that a node says, with that at a place no longer the first but the second of two lengths."""
    if 0 <= place < len(given) and given[place] != -1:
        size, (old, new) = given[place], lengths
        if isinstance(size, fx.Node) and _depends(size):
            with node.graph.inserting_before(node):
                given[place] = _in_proportion(size, new, old)
        else:
            given[place] = new
    return given


def _depends(size: fx.Node) -> bool:
    """It is not computed of constants alone."""
    return not size.all_input_nodes or any(map(_depends, size.all_input_nodes))


def _in_proportion(size: fx.Node, factor: int, divisor: int) -> fx.Node:
    product = size.graph.call_function(operator.mul, (size, factor))
    return size.graph.call_function(operator.floordiv, (product, divisor))


def _asked(sizes: _Sizes, node: fx.Node) -> None:
    """`x.shape[i]`, `x.size(i)` and `x.size()[i]`."""
    found = sizes.changed(node.args[0])
    if found is None:
        return
    before, after, dim = found
    place = node.args[1] if operation(node) == "size" and len(node.args) > 1 else node.kwargs.get("dim")
    if isinstance(place, int):
        if place % len(before.shape) == dim:
            _keep_size(node, before, after, dim)
        return
    for user in list(node.users):
        if operation(user) == "getitem" and isinstance(user.args[1], int) and user.args[1] % len(before.shape) == dim:
            _keep_size(user, before, after, dim)


def _keep_size(node: fx.Node, before: Layout, after: Layout, dim: int) -> None:
    """Let who asks for a size go on with the old one."""
    users, size = list(node.users), before.shape[dim]
    old: Any = size
    if _may_depend(before, dim):
        with node.graph.inserting_after(node):
            product = node.graph.call_function(operator.mul, (node, size))
        with node.graph.inserting_after(product):
            old = node.graph.call_function(operator.floordiv, (product, after.shape[dim]))

    def kept(each: fx.Node) -> Any:
        return old if each is node else each

    for user in users:
        user.args = fx.map_arg(user.args, kept)
        user.kwargs = fx.map_arg(user.kwargs, kept)


def _may_depend(layout: Layout, dim: int) -> bool:
    """Units come again along a dimension, as they do where it holds a batch: its length may be another for others."""
    row = layout.units.movedim(dim, -1).reshape(-1, layout.units.shape[dim])[0]
    return len(row.unique_consecutive()) > len(row.unique())


def _split(sizes: _Sizes, node: fx.Node) -> None:
    """`chunk`, `split` and the like: each part is as long as it is now."""
    found = sizes.changed(node.args[0])
    layouts = sizes.new.get(node.name)
    if found is None or not isinstance(layouts, tuple):
        return
    _, after, dim = found
    given = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    if (
        not isinstance(given, int)
        or given % len(after.shape) != dim
        or not all(isinstance(part, Layout) for part in layouts)
    ):
        return
    node.op, node.target = "call_function", torch.split
    node.args, node.kwargs = (node.args[0], [part.shape[dim] for part in layouts], dim), {}


def _pick(sizes: _Sizes, node: fx.Node) -> None:
    """`x[..., a:b]`, `x.narrow(dim, a, n)` and the like, along the dimension of units."""
    found = sizes.changed(node.args[0])
    if found is None:
        return
    before, _, dim = found
    if operation(node) in ("narrow", "select"):
        at, start = node.args[1], node.args[2]
        if isinstance(at, int) and isinstance(start, int) and at % len(before.shape) == dim:
            ends = _moved(before, dim, sizes.counts)
            more = (ends[start + int(node.args[3])] - ends[start],) if len(node.args) > 3 else ()  # type: ignore[arg-type]
            node.args = (node.args[0], at, ends[start], *more)
        return
    index = node.args[1]
    if operation(node) != "getitem" or any(isinstance(each, Tensor | fx.Node) for each in _listed(index)):
        return
    node.args = (node.args[0], _picked(index, before, dim, sizes.counts))


def _picked(index: Any, before: Layout, dim: int, counts: Tensor) -> Any:
    """An index of slices and numbers, in the new places."""
    listed = list(_listed(index))
    here, found = 0, []
    taken = sum(each is not None and each is not Ellipsis for each in listed)
    for each in listed:
        if each is None or each is Ellipsis:
            here += len(before.shape) - taken if each is Ellipsis else 0
            found.append(each)
            continue
        if here == dim:
            ends = _moved(before, dim, counts)
            if isinstance(each, slice) and any(isinstance(end, fx.Node) for end in (each.start, each.stop, each.step)):
                raise Unfit(before.numbers)  # a place that depends on the inputs
            if isinstance(each, slice) and each.step in (None, 1):
                start, stop, _ = each.indices(before.shape[dim])
                each = slice(None if each.start is None else ends[start], None if each.stop is None else ends[stop])
            elif isinstance(each, int):
                each = ends[each % before.shape[dim]]
        here += 1
        found.append(each)
    return tuple(found) if isinstance(index, tuple) else found[0]


def _listed(index: Any) -> Sequence[Any]:
    return index if isinstance(index, tuple | list) else (index,)


def _moved(layout: Layout, dim: int, counts: Tensor) -> list[int]:
    """[length + 1] how many elements there are from now on before each place, the end among them."""
    counted = layout.counted(counts).movedim(dim, -1).reshape(-1, layout.units.shape[dim])[0]
    return [0, *counted.cumsum(0).tolist()]


def _keep_scale(sizes: _Sizes, node: fx.Node) -> None:
    """Attention divides by the square root of the width of its heads: of the width that they had."""
    found = sizes.changed(node.args[0])
    if found is None:
        return
    before, _, dim = found
    if dim == len(before.shape) - 1 and node.kwargs.get("scale") is None and len(node.args) < 7:
        node.kwargs = {**node.kwargs, "scale": before.shape[dim] ** -0.5}


def _is_dropped_attention(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), DroppedAttention)


_CHANGES: dict[str, Callable[[_Sizes, fx.Node], None]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to", "unflatten"), _shape),
    **dict.fromkeys(("shape", "size"), _asked),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _split),
    **dict.fromkeys(("narrow", "select", "getitem"), _pick),
    F.scaled_dot_product_attention.__name__: _keep_scale,
}
