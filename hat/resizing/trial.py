"""Comparing a resized network with the original: every value of the graph must agree for the units that both have.

Example: the task uses units 0, 1 and 3 of a gate of 4 units, and unit 2 is removed. Activations [B, 4] of the original
are compared without column 2 with the activations [B, 3] of the resized network. A mean over units then differs, as it
divides by 3 instead of 4. The nodes before the mean agree, so the units that the mean reads are to blame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from hat.conversion.body import Converted
from hat.network.tolerance import LAYERS, difference
from hat.resizing.labels import lie_as_said
from hat.tracing.checks import other_inputs
from hat.units.layout import Layout, layouts_in
from hat.units.state import Answer


class _Values(fx.Interpreter):
    """Runs a graph and keeps the value of every node.

    Attributes:
        by_name: the values of the nodes that have run, by the name of the node.
        last: the last node that was started.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.by_name: dict[str, Any] = {}
        self.last: fx.Node | None = None

    def run_node(self, node: fx.Node) -> Any:
        self.last = node
        value = self.by_name[node.name] = super().run_node(node)
        return value

    def values(self, example: tuple[Any, ...]) -> Exception | None:
        """Run the graph on an example. Returns the exception of node `last` if that failed, else None."""
        try:
            self.run(*example)
        except Exception as error:  # any exception: operations differ in what they raise if sizes do not fit
            return error
        return None


@torch.no_grad()
def misfits(before: Converted, after: Converted, counts: Tensor, answer: Answer) -> Tensor | None:
    """The units that make a resized network compute something else than the original.

    The two are compared node by node, on one set of numbers that are all different: weights and, if the network takes
    such inputs, inputs other than the example, which may be all zeros. One set is enough. A single node is one known
    operation, so if it computes another function of its inputs, it does so on different numbers, and nothing that
    follows can hide it. Where numbers show nothing, because there are no old ones for new units, the places of the
    units are compared (`hat.resizing.labels`), which does not depend on values at all.

    Args:
        before: the original, in evaluation mode, with weights that are all different; see `hat.conversion.trials.vary`.
        after: the network resized to `counts`, in evaluation mode.
        counts: [units] int64 through all gates.
        answer: what both networks answer for.

    Returns:
        The numbers of the units that go or join at the first node whose value differs or that fails; None if no node
        differs or fails.
    """
    old, new, failed = _run_both(before, after, answer)
    changed, resized = _nodes_that_change(before, counts), {node.name: node for node in after.network.graph.nodes}
    for node in before.network.graph.nodes:
        if node.op == "output":
            break
        name = node.name
        fails = failed and new.last is not None and new.last.name == name
        if fails or not _same(old.by_name[name], new.by_name.get(name), before.layouts.get(name), counts):
            return _units_to_blame(node, before, counts)
        should_lie_as_said = name in changed and lie_as_said(before, node, old.by_name)
        if should_lie_as_said and not lie_as_said(after, resized[name], new.by_name):
            return _units_to_blame(node, before, counts)
    return None


def _run_both(before: Converted, after: Converted, answer: Answer) -> tuple[_Values, _Values, bool]:
    """The values of both networks on the same inputs, and whether the second network failed."""
    old, new = _Values(before.network), _Values(after.network)
    with before.answering(answer), after.answering(answer):
        example = other_inputs(before.inputs(), 0)
        if old.values(example) is not None:  # the network takes its example only, as some lengths must fit together
            example = before.inputs()
            error = old.values(example)
            if error is not None:
                raise error
        return old, new, new.values(example) is not None


def _nodes_that_change(body: Converted, counts: Tensor) -> set[str]:
    """The names of the nodes in whose values units go or join."""
    layouts_by_node = {name: list(layouts_in(layout)) for name, layout in body.layouts.items()}
    return {
        name
        for name, layouts_of_node in layouts_by_node.items()
        if any(bool((counts[layout.numbers] != 1).any()) for layout in layouts_of_node)
    }


def _units_to_blame(node: fx.Node, body: Converted, counts: Tensor) -> Tensor:
    """The units that go or join in the inputs of a node; if there are none, those in the value of the node."""
    for nodes in (node.all_input_nodes, [node]):
        layouts = layouts_in([body.layouts.get(argument.name) for argument in nodes])
        units = torch.cat([torch.empty(0, dtype=torch.int64), *(layout.numbers for layout in layouts)]).unique()
        if bool((counts[units] != 1).any()):
            break
    return units[counts[units] != 1]


def _same(old: Any, new: Any, layout: Any, counts: Tensor) -> bool:
    """Whether two values of a node are equal to rounding, for the units that both have."""
    if isinstance(old, tuple | list):
        layouts = layout if isinstance(layout, tuple) else [layout] * len(old)
        return len(old) == len(new) and all(map(_same, old, new, layouts, [counts] * len(old)))
    if not isinstance(old, Tensor):
        return True  # a size, or a number made of sizes: if it is wrong, a tensor shows it
    if not isinstance(new, Tensor):
        return False
    if isinstance(layout, Layout) and layout.along(counts) is not None:
        if new.shape != layout.resized(counts).shape:
            return False
        old, new = layout.taken(old, counts.clamp(max=1)), layout.first(new, counts)
    return not difference(new, old, LAYERS, equal_nan=True)
