"""Learned tables that join a residual stream: positions, which are added, and class tokens, which come first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.units.gate import Gate
from hat.units.state import PerSample

STD = 0.02  # small beside the tokens, as transformers start


class _Table(nn.Module):
    """[N, C], columns along the gate: weight (n, c) moves at the rate `free[c]`."""

    def __init__(self, rows: int, units: int, gate: Gate, factory: dict[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, units, **factory))
        self.reset_parameters()
        self.gate = gate.to(self.weight.device)
        gate.attach(self, "weight", 1, table=True)

    def reset_parameters(self) -> None:
        """Draw new rows, N(0, 0.02^2)."""
        nn.init.normal_(self.weight, std=STD)

    def _gated(self, x: Tensor, rows: int) -> Tensor:
        """The first rows times the gate: [rows, C], or where every sample of `x` has a task of its own [B, rows, C]."""
        units = self.weight.shape[1]
        if x.dim() != 3 or x.shape[-1] != units:
            raise ValueError(f"x: expected shape (B, N, {units}), got {tuple(x.shape)}")
        table = self.weight[:rows]
        if isinstance(self.gate.state.answer, PerSample):
            table = table.expand(x.shape[0], -1, -1)
        return hat_kernels.gated_activation(table, activation="identity", gate=self.gate.form())

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))


class PositionalTable(_Table):
    """`x + a * P`: a learned vector a position, added to a residual stream.

    Args:
        positions: how many there are, >= 1.
        units: C, the width of the stream.
        gate: of the stream, of C units.
        factory: `device` and `dtype`, as of `torch.empty`.

    Raises:
        ValueError: there is no position, or the gate has another number of units.
    """

    def __init__(self, positions: int, units: int, *, gate: Gate, **factory: Any) -> None:
        if positions < 1:
            raise ValueError(f"positions: expected at least 1, got {positions}")
        super().__init__(positions, units, gate, factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] to the same, N at most `positions`; a shorter sequence takes the first rows."""
        positions = self.weight.shape[0]
        if x.dim() == 3 and x.shape[1] > positions:
            raise ValueError(f"x: expected at most {positions} positions, got {x.shape[1]}")
        return x + self._gated(x, x.shape[-2])


class ClassToken(_Table):
    """Puts learned tokens, times the gate, in front of a residual stream.

    Args:
        units: C, the width of the stream.
        gate: of the stream, of C units.
        tokens: how many to put there, >= 1.
        factory: `device` and `dtype`, as of `torch.empty`.

    Raises:
        ValueError: there is no token, or the gate has another number of units.
    """

    def __init__(self, units: int, *, gate: Gate, tokens: int = 1, **factory: Any) -> None:
        if tokens < 1:
            raise ValueError(f"tokens: expected at least 1, got {tokens}")
        super().__init__(tokens, units, gate, factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] to [B, tokens + N, C]."""
        tokens = self._gated(x, self.weight.shape[0])
        return torch.cat([tokens.expand(x.shape[0], -1, -1), x], 1)
