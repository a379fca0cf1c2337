"""Several gates along one dimension, and modules that apply a gate where no layer can.

Example: `torch.cat([x, y], -1)`, where x has the 2 units of gate a and y the 3 units of gate b. The 5 places have the
units 0, 1 (of a) and 2, 3, 4 (of b), counted through both gates: `SideBySide([a, b], torch.tensor([0, 1, 2, 3, 4]))`.
After a flatten of maps with 2 pixels per channel, every number stands there twice: 0, 0, 1, 1, 2, 2, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.units.gate import Gate
from hat.units.state import State
from hat_kernels import GateForm


class SideBySide:
    """Several gates along one dimension, as behind a concatenation. A layer uses it like a `Gate`.

    Args:
        gates: the gates, at least one.
        index: [length] int64, the number of the unit at every place, counted through all gates in order.
    """

    def __init__(self, gates: Sequence[Gate], index: Tensor) -> None:
        self.gates = list(gates)
        self.set_index(index)

    def set_index(self, index: Tensor) -> None:
        """Set the `index` of the class, after the gates have got other numbers of units."""
        self.units, self.index = len(index), index
        self._runs = _runs(self.gates, index)

    @property
    def state(self) -> State:
        return self.gates[0].state

    @property
    def training(self) -> bool:
        return self.gates[0].training

    def form(self) -> GateForm | None:
        """See `Gate.form`."""
        forms = [form for gate in self.gates if (form := gate.form()) is not None]
        if not forms:
            return None  # all gates are open, because they share one state
        first = forms[0]
        return GateForm(
            embedding=self._lay([form.embedding for form in forms]),
            scale=first.scale,
            mask=self._lay([form.mask for form in forms]),
            task=first.task,
            s_max=first.s_max,
            compensation=first.compensation,
        )

    def _lay(self, tensors: list[Tensor | None]) -> Tensor | None:
        """[..., units] the tensors of all gates side by side; None if the form has no such tensor."""
        parts = [tensor for tensor in tensors if tensor is not None]
        if not parts:
            return None
        if self._runs is None:
            return torch.cat(parts, -1)[..., _index_on(self, parts[0].device)]
        pieces = [_repeated(parts[gate][..., first:last], repeat) for gate, first, last, repeat in self._runs]
        return torch.cat(pieces, -1)


def _index_on(owner: SideBySide | GatedAnywhere, device: torch.device) -> Tensor:
    """The index of an owner on a device."""
    index = owner.index
    if index.device != device:
        index = index.to(device)
        if not index.is_meta:  # the owner keeps its values
            owner.index = index  # moved only once, because a CUDA graph may not copy from the host
    return index


def _repeated(part: Tensor, repeat: int) -> Tensor:
    return part if repeat == 1 else part[..., None].expand(*part.shape, repeat).flatten(-2)


def _runs(gates: Sequence[Gate], index: Tensor) -> list[tuple[int, int, int, int]] | None:
    """The index as runs (gate, first unit, last unit + 1, repeat); None if there are too many runs to be useful."""
    ends = torch.tensor([gate.units for gate in gates]).cumsum(0)
    runs: list[tuple[int, int, int, int]] = []
    values, repeats = torch.unique_consecutive(index, return_counts=True)
    for unit, repeat in zip(values.tolist(), repeats.tolist(), strict=True):
        gate = int(torch.searchsorted(ends, unit, right=True))
        unit -= int(ends[gate]) - gates[gate].units
        if runs and runs[-1][0] == gate and runs[-1][2:] == (unit, repeat):
            runs[-1] = (gate, runs[-1][1], unit + 1, repeat)
        else:
            runs.append((gate, unit, unit + 1, repeat))
        if len(runs) > 4 * len(gates):
            return None
    return runs


class Gated(nn.Module):
    """`a * activation(x)` along one dimension.

    Args:
        gate: a `Gate` or `SideBySide`; not a submodule of this one.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        unit_dim: the dimension that holds the units.
    """

    gate: Any

    def __init__(self, gate: Any, *, activation: str = "identity", unit_dim: int = -1) -> None:
        super().__init__()
        self.__dict__["gate"] = gate
        self.activation, self.unit_dim = activation, unit_dim

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        return hat_kernels.gated_activation(
            x, activation=self.activation, gate=self.gate.form(), unit_dim=self.unit_dim
        )


class GatedAnywhere(nn.Module):
    """`a * x` if units lie along several dimensions of x, or if some elements of x belong to no unit.

    Args:
        gates: the gates, not submodules of this one.
        index: int64, broadcasts with x: the number of the unit of every element, counted through all gates in order. An
            element that belongs to no unit has the number behind the last unit.
    """

    gates: Any

    def __init__(self, gates: Sequence[Gate], index: Tensor) -> None:
        super().__init__()
        self.__dict__["gates"] = list(gates)
        self.index = index

    def set_index(self, index: Tensor) -> None:
        """Set the `index` of the class, after the gates have got other numbers of units."""
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype; exactly 0 where a unit is off."""
        values = [form.values() for gate in self.gates if (form := gate.form()) is not None]
        if not values:
            return x  # all gates are open, because they share one state
        of_no_unit = values[0].new_ones(*values[0].shape[:-1], 1)
        factor = torch.cat([*values, of_no_unit], -1)
        index = _index_on(self, factor.device)
        if factor.dim() == 1:
            factor = factor[index]
        else:  # every sample has a task
            index = index[(None,) * (x.dim() - index.dim())]
            if index.shape[0] != 1:
                raise ValueError(f"task: expected one task, because units lie along the batch, got {len(factor)}")
            factor = factor[:, index[0].flatten()].view(-1, *index.shape[1:])
        return torch.where(factor == 0, 0.0, x * factor.to(x.dtype))
