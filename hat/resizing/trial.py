"""Trying out a resized network: it must compute, value by value, what the one that it was made of computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from hat.conversion.body import Converted
from hat.network.tolerance import LAYERS, difference
from hat.resizing.labels import lie_as_said
from hat.tracing.checks import other
from hat.units.layout import Layout, layouts_in
from hat.units.state import Answer


class _Values(fx.Interpreter):
    """The values of the nodes of a graph, as far as it runs."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.found: dict[str, Any] = {}
        self.last: fx.Node | None = None

    def run_node(self, node: fx.Node) -> Any:
        self.last = node
        found = self.found[node.name] = super().run_node(node)
        return found

    def values(self, example: tuple[Any, ...]) -> Exception | None:
        """Run; what it failed with at `last`."""
        try:
            self.run(*example)
        except Exception as error:  # whatever an operation makes of sizes that do not fit
            return error
        return None


@torch.no_grad()
def misfits(before: Converted, after: Converted, counts: Tensor, answer: Answer) -> Tensor | None:
    """The units that go or join where the two first differ, or the second fails; None where it computes the same.

    Tried on other inputs than the example, if the network takes them: of zeros all values are alike.

    Args:
        before: in evaluation mode, with weights that are all different; see `hat.conversion.trials.vary`.
        after: the same with `counts`; in evaluation mode.
        counts: [units] int64 through all gates.
        answer: what both answer for.
    """
    old, new, failed = _tried(before, after, answer)
    changed, resized = _changed(before, counts), {node.name: node for node in after.network.graph.nodes}
    for node in before.network.graph.nodes:
        if node.op == "output":
            break
        here = node.name
        fails = failed and new.last is not None and new.last.name == here
        if fails or not _same(old.found[here], new.found.get(here), before.layouts.get(here), counts):
            return _met(node, before, counts)
        said = here in changed and lie_as_said(before, node, old.found)
        if said and not lie_as_said(after, resized[here], new.found):
            return _met(node, before, counts)
    return None


def _tried(before: Converted, after: Converted, answer: Answer) -> tuple[_Values, _Values, bool]:
    """The values of both on the same inputs, and whether the second has failed."""
    old, new = _Values(before.network), _Values(after.network)
    with before.answering(answer), after.answering(answer):
        example = other(before.inputs(), 0)
        if old.values(example) is not None:  # lengths, say, that fit together only as they are
            example = before.inputs()
            error = old.values(example)
            if error is not None:
                raise error
        return old, new, new.values(example) is not None


def _changed(body: Converted, counts: Tensor) -> set[str]:
    """The nodes in whose values units go or join."""
    layouts = {name: list(layouts_in(layout)) for name, layout in body.layouts.items()}
    return {name for name, found in layouts.items() if any(bool((counts[each.numbers] != 1).any()) for each in found)}


def _met(node: fx.Node, body: Converted, counts: Tensor) -> Tensor:
    """Of the units of what a value is made of those that change; where none does, of its own."""
    for nodes in (node.all_input_nodes, [node]):
        layouts = layouts_in([body.layouts.get(each.name) for each in nodes])
        found = torch.cat([torch.empty(0, dtype=torch.int64), *(layout.numbers for layout in layouts)]).unique()
        if bool((counts[found] != 1).any()):
            break
    return found[counts[found] != 1]


def _same(old: Any, new: Any, layout: Any, counts: Tensor) -> bool:
    if isinstance(old, tuple | list):
        layouts = layout if isinstance(layout, tuple) else [layout] * len(old)
        return len(old) == len(new) and all(map(_same, old, new, layouts, [counts] * len(old)))
    if not isinstance(old, Tensor):
        return True  # a size, or what is computed of one: what it does shows in a tensor
    if not isinstance(new, Tensor):
        return False
    if isinstance(layout, Layout) and layout.along(counts) is not None:
        if new.shape != layout.resized(counts).shape:
            return False
        old, new = layout.taken(old, counts.clamp(max=1)), layout.first(new, counts)
    return not difference(new, old, LAYERS, equal_nan=True)
