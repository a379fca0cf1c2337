"""Squeeze and excitation: channels that weigh each other."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hat.layers.gated import HATLinear
from hat.layers.projection import Projection
from hat.units.gate import Gate


class SqueezeExcitation(nn.Module):
    """`y = x * sigmoid(W2 h + b2)` with `h = b * relu(W1 mean(x) + b1)`, the mean over positions.

    After Hu et al., "Squeeze-and-excitation networks", CVPR 2018. The scale of a channel is one unit with the channel,
    `b` the gate of the squeezed units alone. A channel that is off stays off.

    Args:
        channels: C.
        reduced: how many squeezed units there are, >= 1.
        gate: of the channels, whose units come in: `x` must be gated by it already.
        activation: of the squeezed units, a key of `hat_kernels.ACTIVATIONS`.
        factory: `device` and `dtype`, as of `torch.nn.Linear`.

    Attributes:
        squeeze: C to reduced, with the gate of the squeezed units.
        excite: reduced to C, along the gate of the channels.

    Raises:
        ValueError: the gate has another number of units.
    """

    def __init__(self, channels: int, reduced: int, *, gate: Gate, activation: str = "relu", **factory: Any) -> None:
        super().__init__()
        self.squeeze = HATLinear(channels, reduced, activation=activation, inputs=gate, **factory)
        squeezed = self.squeeze.gate
        self.excite = Projection(reduced, channels, activation="sigmoid", gate=gate, inputs=squeezed, **factory)
        squeezed.complete = type(self) is SqueezeExcitation

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        if x.dim() != 4:
            raise ValueError(f"x: expected shape (B, C, H, W), got {tuple(x.shape)}")
        scale: Tensor = self.excite(self.squeeze(x.mean((2, 3))))
        return x * scale[:, :, None, None]
