"""A linear layer along a gate that is applied further on."""

from __future__ import annotations

from typing import Any

from torch import nn

from hat.layers.gated import HATLinear
from hat.units.gate import Gate


class Projection(HATLinear):
    """`activation(x W^T + b)`, locked along a gate that the module around it applies, once for all of its projections.

    What comes out of it is not gated: no part of a chain, and nothing for the weights of another gate to meet.

    Args:
        in_features: K.
        out_features: N, `repeat` of them in a row a unit.
        gate: of N / repeat units.
        inputs: the gate of the units that come in; see `GatedLayer.connect`.
        repeat: >= 1.
        bias: learn an additive bias.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        factory: `device` and `dtype`, as of `torch.nn.Linear`.

    Raises:
        ValueError: N or K do not fit the gates.
    """

    gated = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        gate: Gate,
        inputs: Gate | None = None,
        repeat: int = 1,
        bias: bool = True,
        activation: str = "identity",
        **factory: Any,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, **factory)
        self._set_up(gate.units, -1, activation, 0.0, gate, inputs, repeat)
