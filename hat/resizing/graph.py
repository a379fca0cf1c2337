"""Resizing the graph of a converted network: the numbers in the graph that depend on how many units there are.

Example: attention with 2 heads of 3 dimensions. Each head gets a fourth dimension.

    in the graph                       afterwards
    q.view(batch, 2, 3)                q.view(batch, 2, 4)   a call that sets a size gets the new size
    scores / q.shape[-1] ** 0.5        scores / 3 ** 0.5     a call that reads a size gets the old size
    qkv.split(6, dim=1)                torch.split(qkv, [8, 8, 8], 1)
    qkv[:, 6:12]                       qkv[:, 8:16]          places move

A size that is read stays the old one, because the network must compute the same function: with a scale of 4 ** 0.5 all
attention weights would change. A size that may depend on the batch, as `batch * 6`, changes in proportion.
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
    """Change the graph of a converted network to other numbers of units, in place.

    Args:
        body: its graph and its layouts change. Its modules do not, see `hat.resizing.resize`.
        counts: [units] int64 through all gates, how often every unit is there afterwards; see `hat.resizing.fitting`.

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
    stays = counts.clamp(max=1).bool()
    body.needed = body.needed[stays].repeat_interleave(counts[stays])


def _resized(layout: Any, counts: Tensor) -> Any:
    """A layout, or a tuple of layouts, with other counts. None stays None."""
    if isinstance(layout, tuple):
        return tuple(_resized(part, counts) for part in layout)
    return None if layout is None else layout.resized(counts)


class _Sizes:
    """The layouts of a graph, by the name of the node, before and after."""

    def __init__(self, old: dict[str, Any], new: dict[str, Any], counts: Tensor) -> None:
        self.old, self.new, self.counts = old, new, counts

    def changed(self, node: Any) -> tuple[Layout, Layout, int] | None:
        """How the shape of a node's value changes.

        Returns:
            The layout before, the layout after, and the dimension whose length changes. None if no length changes, or
            if the value has no units.
        """
        before = self.old.get(node.name) if isinstance(node, fx.Node) else None
        if not isinstance(before, Layout):
            return None
        after = self.new[node.name]
        changed_dims = [dim for dim, size in enumerate(before.shape) if after.shape[dim] != size]
        return (before, after, changed_dims[0]) if changed_dims else None


def _set_sizes(sizes: _Sizes, node: fx.Node) -> None:
    """Calls that set sizes: `view(x, ...)` and `expand(x, ...)` set all, `unflatten(x, dim, ...)` those at `dim`."""
    change = sizes.changed(node)
    if change is None:
        return
    before, after, dim = change
    old_and_new = before.shape[dim], after.shape[dim]
    if operation(node) == "unflatten":
        at, sizes_given = node.args[1], list(node.args[2])  # type: ignore[arg-type]
        first = int(at) if int(at) >= 0 else len(after.shape) - len(sizes_given) + int(at) + 1  # type: ignore[arg-type]
        node.args = (*node.args[:2], tuple(_replaced(node, sizes_given, dim - first, old_and_new)))
        return
    in_one_argument = len(node.args) == 2 and isinstance(node.args[1], tuple | list)
    sizes_given = list(node.args[1] if in_one_argument else node.args[1:])  # type: ignore[arg-type]
    sizes_given = _replaced(node, sizes_given, dim, old_and_new)
    node.args = (node.args[0], tuple(sizes_given)) if in_one_argument else (node.args[0], *sizes_given)


def _replaced(node: fx.Node, sizes_given: list[Any], index: int, old_and_new: tuple[int, int]) -> list[Any]:
    """The sizes that a node sets, with a new size at one index.

    Args:
        node: the node.
        sizes_given: its sizes; changed in place.
        index: which size to replace; nothing is done if there is no such size, or if the size is -1.
        old_and_new: the length of the dimension before and after.
    """
    if 0 <= index < len(sizes_given) and sizes_given[index] != -1:
        size, (old, new) = sizes_given[index], old_and_new
        if isinstance(size, fx.Node) and _depends(size):
            with node.graph.inserting_before(node):
                sizes_given[index] = _in_proportion(size, new, old)
        else:
            sizes_given[index] = new
    return sizes_given


def _depends(size: fx.Node) -> bool:
    """Whether a size depends on an input, instead of on constants alone."""
    return not size.all_input_nodes or any(map(_depends, size.all_input_nodes))


def _in_proportion(size: fx.Node, factor: int, divisor: int) -> fx.Node:
    """A new node that computes `size * factor // divisor`."""
    product = size.graph.call_function(operator.mul, (size, factor))
    return size.graph.call_function(operator.floordiv, (product, divisor))


def _read_size(sizes: _Sizes, node: fx.Node) -> None:
    """Calls that read a size: `x.shape[i]`, `x.size(i)` and `x.size()[i]`."""
    change = sizes.changed(node.args[0])
    if change is None:
        return
    before, after, dim = change
    asked_dim = node.args[1] if operation(node) == "size" and len(node.args) > 1 else node.kwargs.get("dim")
    if isinstance(asked_dim, int):
        if asked_dim % len(before.shape) == dim:
            _keep_size(node, before, after, dim)
        return
    for user in list(node.users):
        if operation(user) == "getitem" and isinstance(user.args[1], int) and user.args[1] % len(before.shape) == dim:
            _keep_size(user, before, after, dim)


def _keep_size(node: fx.Node, before: Layout, after: Layout, dim: int) -> None:
    """Give the users of a size the old size.

    Args:
        node: the node that reads the size.
        before: the layout of the value before.
        after: the layout of the value after.
        dim: the dimension whose size is read.
    """
    users, size = list(node.users), before.shape[dim]
    old_size: Any = size
    if _may_depend_on_batch(before, dim):
        with node.graph.inserting_after(node):
            product = node.graph.call_function(operator.mul, (node, size))
        with node.graph.inserting_after(product):
            old_size = node.graph.call_function(operator.floordiv, (product, after.shape[dim]))

    def with_old_size(argument: fx.Node) -> Any:
        return old_size if argument is node else argument

    for user in users:
        user.args = fx.map_arg(user.args, with_old_size)
        user.kwargs = fx.map_arg(user.kwargs, with_old_size)


def _may_depend_on_batch(layout: Layout, dim: int) -> bool:
    """Whether the length of a dimension may depend on the batch, because it holds batch and units together.

    The units along the dimension then repeat, as 0, 1, 2, 0, 1, 2 for a batch of two samples with three units each.
    """
    row = layout.units.movedim(dim, -1).reshape(-1, layout.units.shape[dim])[0]
    return len(row.unique_consecutive()) > len(row.unique())


def _split(sizes: _Sizes, node: fx.Node) -> None:
    """Calls that cut a value into parts, as `chunk` and `split`: each part gets its new length."""
    change = sizes.changed(node.args[0])
    layouts = sizes.new.get(node.name)
    if change is None or not isinstance(layouts, tuple):
        return
    _, after, dim = change
    split_dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    if (
        not isinstance(split_dim, int)
        or split_dim % len(after.shape) != dim
        or not all(isinstance(part, Layout) for part in layouts)
    ):
        return
    node.op, node.target = "call_function", torch.split
    node.args, node.kwargs = (node.args[0], [part.shape[dim] for part in layouts], dim), {}


def _pick_part(sizes: _Sizes, node: fx.Node) -> None:
    """Calls that pick a part along the dimension of units, as `x[..., a:b]` and `x.narrow(dim, a, n)`."""
    change = sizes.changed(node.args[0])
    if change is None:
        return
    before, _, dim = change
    if operation(node) in ("narrow", "select"):
        picked_dim, start = node.args[1], node.args[2]
        if isinstance(picked_dim, int) and isinstance(start, int) and picked_dim % len(before.shape) == dim:
            ends = _new_places(before, dim, sizes.counts)
            length = (ends[start + int(node.args[3])] - ends[start],) if len(node.args) > 3 else ()  # type: ignore[arg-type]
            node.args = (node.args[0], picked_dim, ends[start], *length)
        return
    index = node.args[1]
    if operation(node) != "getitem" or any(isinstance(part, Tensor | fx.Node) for part in _listed(index)):
        return
    node.args = (node.args[0], _moved_index(index, before, dim, sizes.counts))


def _moved_index(index: Any, before: Layout, dim: int, counts: Tensor) -> Any:
    """An index of slices and numbers, moved to the new places.

    Args:
        index: the index, or a tuple of indices.
        before: the layout of the indexed value before.
        dim: the dimension whose length changes.
        counts: [units] int64 through all gates.

    Raises:
        Unfit: a slice along `dim` depends on the inputs.
    """
    parts = list(_listed(index))
    current_dim, new_parts = 0, []
    dims_indexed = sum(part is not None and part is not Ellipsis for part in parts)
    for part in parts:
        if part is None or part is Ellipsis:
            current_dim += len(before.shape) - dims_indexed if part is Ellipsis else 0
            new_parts.append(part)
            continue
        if current_dim == dim:
            ends = _new_places(before, dim, counts)
            if isinstance(part, slice) and any(isinstance(end, fx.Node) for end in (part.start, part.stop, part.step)):
                raise Unfit(before.numbers)  # the slice depends on the inputs
            if isinstance(part, slice) and part.step in (None, 1):
                start, stop, _ = part.indices(before.shape[dim])
                part = slice(None if part.start is None else ends[start], None if part.stop is None else ends[stop])
            elif isinstance(part, int):
                part = ends[part % before.shape[dim]]
        current_dim += 1
        new_parts.append(part)
    return tuple(new_parts) if isinstance(index, tuple) else new_parts[0]


def _listed(index: Any) -> Sequence[Any]:
    """The parts of an index."""
    return index if isinstance(index, tuple | list) else (index,)


def _new_places(layout: Layout, dim: int, counts: Tensor) -> list[int]:
    """[length + 1] the new place of every old place along `dim`, and of the end."""
    counted = layout.counted(counts).movedim(dim, -1).reshape(-1, layout.units.shape[dim])[0]
    return [0, *counted.cumsum(0).tolist()]


def _keep_scale(sizes: _Sizes, node: fx.Node) -> None:
    """Keep the scale of attention: one divided by the square root of the width that the heads had before."""
    change = sizes.changed(node.args[0])
    if change is None:
        return
    before, _, dim = change
    if dim == len(before.shape) - 1 and node.kwargs.get("scale") is None and len(node.args) < 7:
        node.kwargs = {**node.kwargs, "scale": before.shape[dim] ** -0.5}


def _is_dropped_attention(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls a `DroppedAttention`."""
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), DroppedAttention)


_CHANGES: dict[str, Callable[[_Sizes, fx.Node], None]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to", "unflatten"), _set_sizes),
    **dict.fromkeys(("shape", "size"), _read_size),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _split),
    **dict.fromkeys(("narrow", "select", "getitem"), _pick_part),
    F.scaled_dot_product_attention.__name__: _keep_scale,
}
