"""What lies along an axis of units: dimensions of parameters, in order or at places of their own."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

Owner = tuple[nn.Module, str]
"""A module that has a parameter, and its name there."""


class Along(NamedTuple):
    """One parameter that lies along a gate's axis of units.

    Attributes:
        module: the module that owns the parameter.
        name: its name there.
        dim: the dimension of the parameter that lies along the axis: 0 of a producer, 1 of a consumer or a table.
        repeat: how many consecutive indices of that dimension belong to one unit (a channel after a flatten).
        groups: of the grouped convolution that consumes the axis.
        places: [units * repeat] int64, the indices that belong to unit 0, to unit 1, ...; None where they are all of
            the dimension, in order. What lies along several gates side by side, as behind a concatenation, has places.
        table: its rows are what the module answers, or adds: dimension 1 is that of outputs, and a weight of a used
            unit is locked in every row.
    """

    module: nn.Module
    name: str
    dim: int
    repeat: int = 1
    groups: int = 1
    places: Tensor | None = None
    table: bool = False

    @property
    def produces(self) -> bool:
        """The units are outputs of the module, not its inputs."""
        return self.dim == 0 or self.table

    @property
    def parameter(self) -> Tensor | None:
        """The parameter as it is now; None if there is none, or if the module computes it from others."""
        return self.module._parameters.get(self.name)
