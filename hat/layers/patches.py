"""An image as a sequence of patches."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hat.layers.convolutions import HATConv2d
from hat.units.gate import Gate


class PatchEmbedding(nn.Module):
    """`y = a * (W p + b)` of every patch p of an image, as a vision transformer begins (Dosovitskiy et al., ICLR 2021).

    A first layer: all incoming weights of a used unit are locked.

    Args:
        image_size: (height, width) of an image, or one number for both.
        patch: (height, width) of a patch, which divide those of an image, or one number for both.
        channels: of an image.
        units: C, of the gate.
        gate: share this gate of C units instead of making one (a residual stream has one gate, see
            `HATMultiheadAttention`).
        conv: bias, device, dtype, as of `torch.nn.Conv2d`.

    Attributes:
        positions: N, how many patches an image has.

    Raises:
        ValueError: patches do not fit an image, or the gate has another number of units.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch: int | tuple[int, int],
        channels: int,
        units: int,
        *,
        gate: Gate | None = None,
        **conv: Any,
    ) -> None:
        super().__init__()
        self.image_size, size = _pair(image_size), _pair(patch)
        if min(*size, *self.image_size) < 1 or any(a % b for a, b in zip(self.image_size, size, strict=True)):
            raise ValueError(f"patch: expected one that divides {self.image_size}, got {size}")
        self.positions = self.image_size[0] // size[0] * (self.image_size[1] // size[1])
        gate = Gate(units) if gate is None else gate  # not of the convolution, whose units lie along dimension 1
        self.convolution = HATConv2d(channels, units, size, stride=size, activation="identity", gate=gate, **conv)

    @property
    def gate(self) -> Gate:
        """Of what comes out."""
        return self.convolution.gate

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, N, C], row by row of patches."""
        if x.shape[-2:] != self.image_size:
            raise ValueError(f"x: expected images of {self.image_size}, got {tuple(x.shape)}")
        h: Tensor = self.convolution(x)
        return h.flatten(2).transpose(1, 2)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
