"""What the analysis knows of a value of the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        shape: of the tensor on the example.
        labels: int64 of that shape, the id of the unit that each element belongs to, 0 for none; None where it is 0
            everywhere.
        gated: elements of units that are off are exactly 0.
        parameters: the names of the parameters that it is made of, without an activation; empty for an activation.
    """

    shape: torch.Size
    labels: Tensor | None = None
    gated: bool = False
    parameters: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_parameter(self) -> bool:
        return bool(self.parameters)

    @property
    def ids(self) -> Tensor:
        """The labels, zeros if there are none."""
        return torch.zeros((), dtype=torch.int64).expand(self.shape) if self.labels is None else self.labels


@dataclass(frozen=True)
class Claim:
    """Dimension `dim` of a parameter lies along units, as one module uses it.

    Attributes:
        module: the name of the module in the graph.
        name: of the parameter there.
        dim: 0 or 1.
        ids: [length] the unit of every index, 0 for none; of `groups * shape[1]` for `dim` 1.
        groups: see `hat.Along`.
        locks: what the units use may not move; False for what every task has of its own.
    """

    module: str
    name: str
    dim: int
    ids: Tensor
    groups: int = 1
    locks: bool = True
