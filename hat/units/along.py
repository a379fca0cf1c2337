"""Which dimension of which parameter lies along an axis of units.

Example: a convolution `Conv2d(3, 4, 3)`, whose maps are 2 by 2 pixels behind a pool, a flatten, and `Linear(16, 5)`.
The 4 channels are the units of one gate. Its members are

    Along(conv, "weight", 0)              weight [4, 3, 3, 3]: row i makes unit i
    Along(conv, "bias", 0)                bias [4]
    Along(linear, "weight", 1, repeat=4)  weight [5, 16]: columns 0 to 3 read unit 0, columns 4 to 7 read unit 1, ...
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

Owner = tuple[nn.Module, str]
"""A module that owns a parameter, and the name of the parameter there."""


class Along(NamedTuple):
    """One parameter that lies along a gate's axis of units.

    Attributes:
        module: the module that owns the parameter.
        name: the name of the parameter in that module.
        dim: the dimension of the parameter that lies along the axis: 0 of a module that makes the units, 1 of a module
            that reads the units, 1 of a table. The other way round if the weight of the module is `transposed`, as that
            of a transposed convolution.
        repeat: how many consecutive indices of that dimension belong to one unit (the pixels of a channel after a
            flatten).
        groups: the number of groups, if a grouped convolution reads the units.
        places: [units * repeat] int64, the indices that belong to unit 0, then to unit 1, ... None: all indices of the
            dimension, in order. A dimension that lies along several gates side by side, as behind a concatenation, has
            places.
        table: the module answers with rows of the parameter, or adds them (an embedding). Then dimension 1 holds the
            outputs, and the column of a used unit is locked in every row.
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
        transposed = self.name == "weight" and getattr(self.module, "transposed", False)
        return self.table or self.dim == (1 if transposed else 0)

    @property
    def parameter(self) -> Tensor | None:
        """The parameter as it is now; None if the module has none, or computes it from other parameters."""
        return self.module._parameters.get(self.name)
