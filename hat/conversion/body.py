"""A converted network, as the body of a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from hat.gate import Gate
from hat.wired import Reach, Wired


class Converted(nn.Module, Wired):
    """What `hat.convert` makes of a network: its graph, with gates, around its own parameters.

    Attributes:
        network: the graph.
        gates: the gate of every axis of units, by the name of the first layer that makes them.
        head: the name that the removed head had, or None.
        loose: gates whose units the heads see in another order, or among others.
        features: the length of the last dimension of what comes out.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        gates: dict[str, Gate],
        *,
        features: int,
        head: str | None,
        tail: Reach | None,
        loose: frozenset[Gate],
    ) -> None:
        super().__init__()
        self.network = network
        self.gates = nn.ModuleDict(gates)
        self.features, self.head, self.tail, self.loose = features, head, tail, loose
        self.__dict__["_made"] = tuple(network.modules())

    def forward(self, *inputs: Any) -> Tensor:
        """What the network takes, to its features [..., features]."""
        found: Tensor = self.network(*inputs)
        return found

    def complete(self) -> dict[Gate, bool]:
        """Those of which the heads see none or all in order, unless the graph's modules were changed, or have hooks."""
        modules = tuple(self.network.modules())
        intact = modules == self._made and not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        return {gate: intact and gate not in self.loose for gate in self.gates.values() if isinstance(gate, Gate)}
