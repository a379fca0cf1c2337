"""Parameters that a graph reads by itself: tables of positions, class tokens, scales of layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hat.conversion.analysis import Analysis
from hat.conversion.units import varying
from hat.conversion.values import Claim
from hat.units.per_task import PerTaskParameter

LARGEST_OWN = 2**20
"""The most elements of a parameter of which every task has its own: tables of positions stay below."""


class SharedParameter(nn.Module):
    """A parameter along a gate, in the shape [R, C] or [N] in which locks are written, in the memory that it has.

    Args:
        parameter: [1, ..., R, C] or the like.
        shape: its shape without the leading dimensions of length 1.
    """

    def __init__(self, parameter: nn.Parameter, shape: torch.Size) -> None:
        super().__init__()
        same = parameter.shape == shape
        self.weight = parameter if same else nn.Parameter(parameter.data.view(shape), parameter.requires_grad)
        self.shape = parameter.shape
        self._start = 0.0, 0.0
        if parameter.is_floating_point():
            spread, mean = torch.std_mean(parameter.detach().double(), correction=0)
            self._start = mean.item(), spread.item()

    def reset_parameters(self) -> None:
        """Draw new values, normal with the mean and the spread that the parameter came with: of a constant, that."""
        mean, spread = self._start
        nn.init.normal_(self.weight, mean, spread)

    def forward(self) -> Tensor:
        """The parameter in its own shape."""
        return self.weight.view(self.shape)


@dataclass(frozen=True)
class Table:
    """What becomes of a parameter that the graph reads.

    Attributes:
        module: the name of the module that holds it from now on.
        parameter: itself.
        claim: the units that it lies along; None if every task has its own.
        rank: the dimensions of what is computed with it, if they are always as many.
    """

    module: str
    parameter: nn.Parameter
    claim: Claim | None
    rank: int | None = None

    def make(self) -> nn.Module:
        """The module."""
        if self.claim is None:
            return PerTaskParameter(self.parameter, rank=self.rank)
        return SharedParameter(self.parameter, _squeezed(self.parameter.shape))


def represent(analysis: Analysis, name: str, module: str) -> Table | None:
    """Find the dimension along which a parameter lies along units; every task has its own if there is none.

    None for a large one of those, which would cost every task too much: it is left as it is, along no gate.
    """
    parameter = analysis.parameter(name)
    elements = analysis.elements(parameter)
    own = Table(module, parameter, None, _rank(analysis, name))
    if name in analysis.own or elements is None:
        return _own(own, analysis, elements)
    ids = analysis.units.find(elements).view(_squeezed(parameter.shape))
    dims = varying(ids)
    if len(dims) > 1 or (dims and dims[0] > 1) or (ids.numel() > 1 and not dims and ids.dim() > 1):
        return _own(own, analysis, ids)
    dim = dims[0] if dims else 0
    along = ids.movedim(dim, 0).flatten(1)[:, 0] if ids.dim() > 1 else ids
    return Table(module, parameter, Claim(module, "weight", dim, along.clone()))


def _own(table: Table, analysis: Analysis, ids: Tensor | None) -> Table | None:
    if ids is not None:
        analysis.units.fix(ids)  # it does not move along
    return table if table.parameter.numel() <= LARGEST_OWN else None


def _rank(analysis: Analysis, name: str) -> int | None:
    """How many dimensions everything has that the graph computes of a parameter and something else."""
    nodes = [n for n in analysis.network.graph.nodes if n.op == "get_attr" and n.target == name]
    users = [user for node in nodes for user in node.users]
    found = [analysis.concrete.get(user) if len(user.all_input_nodes) > 1 else None for user in users]
    ranks = {each.dim() if isinstance(each, Tensor) else None for each in found}
    return ranks.pop() if len(ranks) == 1 else None


def _squeezed(shape: torch.Size) -> torch.Size:
    """Without leading dimensions of length 1, one of them left at least."""
    sizes = list(shape) or [1]
    while len(sizes) > 1 and sizes[0] == 1:
        sizes.pop(0)
    return torch.Size(sizes)
