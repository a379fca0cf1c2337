"""What the analysis knows of a tensor in the graph, and of a parameter that lies along units."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        shape: of the tensor on the example.
        labels: int64 of that shape, for every element the id of its unit; 0 if the element belongs to no unit;
            `analysis.ZERO` if the element is exactly 0 for every task. None: all labels are 0.
        gated: elements of units that are off are exactly 0.
        parameters: the names of the parameters, if the tensor is computed from parameters alone; else empty.
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
        """The labels; zeros if `labels` is None."""
        return torch.zeros((), dtype=torch.int64).expand(self.shape) if self.labels is None else self.labels


@dataclass(frozen=True)
class Claim:
    """Dimension `dim` of a parameter lies along units, as one module uses the parameter.

    Attributes:
        module: the name of the module in the graph.
        name: the name of the parameter in that module.
        dim: 0 or 1.
        ids: [length] int64, the id of the unit of every index, 0 if the index belongs to no unit. The length is that of
            dimension `dim`; for `dim` 1, times `groups`.
        groups: see `hat.Along`.
        locks: the weights of used units are locked; False for per-task parameters.
    """

    module: str
    name: str
    dim: int
    ids: Tensor
    groups: int = 1
    locks: bool = True
