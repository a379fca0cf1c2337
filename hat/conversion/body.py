"""A converted network, as the body of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from hat.units.gate import Gate
from hat.units.layout import Layout
from hat.units.state import Answer
from hat.units.wired import Wired


class Converted(nn.Module, Wired):
    """What `hat.convert` makes of a network: its graph, with gates, around its own parameters.

    Attributes:
        network: the graph.
        gates: the gate of every axis of units, by the name of the first layer that makes them.
        head: the name that the removed head had, or None.
        loose: gates whose units the heads see in another order, or among others.
        features: the length of the last dimension of what comes out.
        layouts: where the units lie in the value of every node of the graph that has some, by its name; counted through
            all gates in order. A tuple for a node that answers with one.
        answer: where they lie in what comes out, or None.
        needed: [units] bool, of all gates in order: neither may this unit go, nor may others join it.
        example: inputs that the network takes, or took before it changed its device or dtype; see `inputs`.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        gates: dict[str, Gate],
        *,
        features: int,
        head: str | None,
        tail: Gate | None,
        loose: frozenset[Gate],
        layouts: dict[str, Any],
        needed: Tensor,
        example: tuple[Any, ...],
    ) -> None:
        super().__init__()
        self.network = network
        self.gates = nn.ModuleDict(gates)
        self.features, self.head, self.loose = features, head, loose
        self.__dict__["tail"] = tail  # one of the gates
        self.layouts, self.needed, self.example = layouts, needed, example
        self.__dict__["_made"] = tuple(network.modules())

    @property
    def answer(self) -> Layout | None:
        (node,) = self.network.graph.output_node().args
        return self.layouts.get(node.name) if isinstance(node, fx.Node) else None

    def inputs(self) -> tuple[Any, ...]:
        """The example as the network takes it now: on its device, in its dtype."""
        like = next((p for p in self.network.parameters() if p.is_floating_point()), None)
        if like is None:
            return self.example
        found: tuple[Any, ...] = tree_map_only(
            Tensor, lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype), self.example
        )
        return found

    def forward(self, *inputs: Any) -> Tensor:
        """What the network takes, several inputs also as one tuple, to its features [..., features]."""
        if len(inputs) == 1 and isinstance(inputs[0], tuple):  # as a model passes them on
            (inputs,) = inputs
        found: Tensor = nn.Module.__call__(self.network, *inputs)  # that of a graph prints errors, too
        return found

    @contextmanager
    def answering(self, answer: Answer) -> Iterator[None]:
        """Let all gates answer for this inside of the `with` block; before a model has them, each has its own state."""
        with ExitStack() as stack:
            for state in {gate.state for gate in self.gates.values() if isinstance(gate, Gate)}:
                stack.enter_context(state.answering(answer))
            yield

    def complete(self) -> dict[Gate, bool]:
        """Those of which the heads see none or all in order, unless the graph's modules were changed, or have hooks."""
        intact = self._is_intact()
        return {gate: intact and gate not in self.loose for gate in self.gates.values() if isinstance(gate, Gate)}

    def seen_by_heads(self) -> set[Gate]:
        """Those of which the heads see all units, each at places of its own."""
        answer = self.answer
        last = answer is not None and answer.varying == (len(answer.shape) - 1,)
        return set(self.loose) if last and self._is_intact() else set()

    def _is_intact(self) -> bool:
        modules = tuple(self.network.modules())
        return modules == self._made and not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
