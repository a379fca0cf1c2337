"""The two layers of a transformer that work on every token by itself, plain and with a switch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import hat_kernels
from hat.layers.gated import HATLinear
from hat.layers.projection import Projection
from hat.units.gate import Gate
from hat_kernels.dropout.api import check_probability


class FeedForward(nn.Module):
    """`y = a * dropout(W2 h + b2)` with `h = b * dropout(activation(W1 x + b1))`, `b` the gate of the hidden units.

    How a residual stream is wired, see `HATMultiheadAttention`.

    Args:
        features: C, in and out.
        hidden: the hidden units.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        dropout: probability in [0, 1), hidden and at the end.
        bias: learn additive biases.
        gate: share this gate of C units for what comes out, instead of making one.
        inputs: the gate of the C units that come in; None: of nobody, which locks more.
        factory: `device` and `dtype`, as of `torch.nn.Linear`.

    Attributes:
        up: C to hidden, with the gate of the hidden units.
        down: hidden to C.

    Raises:
        ValueError: an option out of range, or a gate that does not fit.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        gate: Gate | None = None,
        inputs: Gate | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        options = {"dropout": dropout, "bias": bias, **factory}
        self.up = HATLinear(features, hidden, activation=activation, inputs=inputs, **options)
        self.down = HATLinear(hidden, features, activation="identity", gate=gate, inputs=self.up.gate, **options)
        self.up.gate.complete = type(self) is FeedForward

    @property
    def gate(self) -> Gate:
        """Of what comes out."""
        return self.down.gate

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to the same."""
        h: Tensor = self.down(self.up(x))
        return h


class SwiGLU(nn.Module):
    """`y = a * dropout(W3 h + b3)` with `h = b * dropout((W1 x + b1) * silu(W2 x + b2))`.

    After Shazeer, "GLU variants improve transformer", 2020. Both halves of a hidden unit are one unit, gated once.

    Args:
        features: C, in and out.
        hidden: the hidden units.
        activation: of the switch, a key of `hat_kernels.ACTIVATIONS`.
        dropout: probability in [0, 1), hidden and at the end.
        bias: learn additive biases.
        gate: share this gate of C units for what comes out, instead of making one.
        inputs: the gate of the C units that come in; None: of nobody, which locks more.
        factory: `device` and `dtype`, as of `torch.nn.Linear`.

    Attributes:
        up: C to hidden, W1, along the gate of the hidden units.
        switch: C to hidden, W2, along the same.
        down: hidden to C, W3.

    Raises:
        ValueError: an option out of range, or a gate that does not fit.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        activation: str = "silu",
        dropout: float = 0.0,
        bias: bool = True,
        gate: Gate | None = None,
        inputs: Gate | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        check_probability(dropout, "dropout")
        self.dropout = dropout
        middle = Gate(hidden)
        options = {"bias": bias, **factory}
        self.up = Projection(features, hidden, gate=middle, inputs=inputs, **options)
        self.switch = Projection(features, hidden, activation=activation, gate=middle, inputs=inputs, **options)
        self.down = HATLinear(
            hidden, features, activation="identity", dropout=dropout, gate=gate, inputs=middle, **options
        )
        middle.complete = type(self) is SwiGLU

    @property
    def gate(self) -> Gate:
        """Of what comes out."""
        return self.down.gate

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to the same."""
        h = hat_kernels.gated_activation(
            self.up(x) * self.switch(x),
            activation="identity",
            dropout=self.dropout if self.training else 0.0,
            gate=self.up.gate.form(),
        )
        y: Tensor = self.down(h)
        return y
