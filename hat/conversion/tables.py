"""Parameters that a graph reads without a layer: tables of positions, class tokens, scales of layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hat.conversion.analysis import Analysis
from hat.conversion.units import varying
from hat.conversion.values import Claim
from hat.units.per_task import PerTaskParameter

LARGEST_PER_TASK = 2**20
"""The largest number of elements of a per-task parameter. Tables of positions have fewer."""


class SharedParameter(nn.Module):
    """A parameter along a gate, as `weight` of the shape [R, C] or [N] that locks expect. It keeps its memory.

    Args:
        parameter: [1, ..., R, C] or [1, ..., N].
        shape: the shape of the parameter without the leading dimensions of length 1.
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
        """Draw new values from a normal distribution with the first mean and standard deviation of the parameter.

        A parameter that was constant at first becomes this constant again.
        """
        mean, spread = self._start
        nn.init.normal_(self.weight, mean, spread)

    def forward(self) -> Tensor:
        """The parameter in its first shape."""
        return self.weight.view(self.shape)


@dataclass(frozen=True)
class Table:
    """The module that replaces a parameter which the graph reads.

    Attributes:
        module: the name of the module.
        parameter: the parameter.
        claim: the units that the parameter lies along; None for a per-task parameter.
        rank: the number of dimensions of the results that are computed from the parameter; None if it differs.
    """

    module: str
    parameter: nn.Parameter
    claim: Claim | None
    rank: int | None = None

    def make(self) -> nn.Module:
        """Make the module."""
        if self.claim is None:
            return PerTaskParameter(self.parameter, rank=self.rank)
        return SharedParameter(self.parameter, _squeezed(self.parameter.shape))


def represent(analysis: Analysis, name: str, module: str) -> Table | None:
    """The module for a parameter: along the units of one dimension if it can be, else a per-task parameter.

    None if the parameter would be a per-task parameter and is large, because copies would cost too much. The parameter
    is then left unchanged, along no gate.

    Args:
        analysis: the analysis, which has been run.
        name: the name of the parameter in the graph.
        module: the name of the new module.
    """
    parameter = analysis.parameter(name)
    elements = analysis.elements(parameter)
    per_task = Table(module, parameter, None, _rank(analysis, name))
    if name in analysis.per_task or elements is None:
        return _if_small(per_task, analysis, elements)
    ids = analysis.units.find(elements).view(_squeezed(parameter.shape))
    dims = varying(ids)
    if len(dims) > 1 or (dims and dims[0] > 1) or (ids.numel() > 1 and not dims and ids.dim() > 1):
        return _if_small(per_task, analysis, ids)
    dim = dims[0] if dims else 0
    along = ids.movedim(dim, 0).flatten(1)[:, 0] if ids.dim() > 1 else ids
    return Table(module, parameter, Claim(module, "weight", dim, along.clone()))


def _if_small(table: Table, analysis: Analysis, ids: Tensor | None) -> Table | None:
    """The table of a per-task parameter; None if the parameter is large."""
    if ids is not None:
        analysis.units.fix(ids)  # because the parameter does not move with them
    return table if table.parameter.numel() <= LARGEST_PER_TASK else None


def _rank(analysis: Analysis, name: str) -> int | None:
    """The number of dimensions of all results that the graph computes from a parameter and another value, or None."""
    nodes = [n for n in analysis.network.graph.nodes if n.op == "get_attr" and n.target == name]
    users = [user for node in nodes for user in node.users]
    results = [analysis.concrete.get(user) if len(user.all_input_nodes) > 1 else None for user in users]
    ranks = {result.dim() if isinstance(result, Tensor) else None for result in results}
    return ranks.pop() if len(ranks) == 1 else None


def _squeezed(shape: torch.Size) -> torch.Size:
    """The shape without leading dimensions of length 1. At least one dimension is left."""
    sizes = list(shape) or [1]
    while len(sizes) > 1 and sizes[0] == 1:
        sizes.pop(0)
    return torch.Size(sizes)
