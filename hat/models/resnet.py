"""Residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from hat.arguments import check_arguments
from hat.conversion.body import Converted
from hat.models.shapes import check_image, check_positive, converted
from hat_kernels.dropout.api import check_probability

STEMS = ("auto", "small", "image")
SMALL = 64
"""With `stem="auto"`, images of at most this many pixels per side keep their size in the stem."""
ENOUGH = 32
"""Pixels per side of the images that a network is converted on.

No layer depends on the size of the images, and a conversion takes longer for larger images.
"""


def resnet18(
    input_shape: Sequence[int],
    *,
    width: int = 64,
    stem: str = "auto",
    zero_init: bool = True,
    dropout: float = 0.0,
) -> Converted:
    """Four stages of 2, 2, 2 and 2 residual blocks of two convolutions: He et al., CVPR 2016.

    The residual stream of every stage has one gate, and the inside of every block another one. Norms are per task.

    Args:
        input_shape: (C, H, W) of one image.
        width: the number of channels of the first stage, >= 1. Every stage has twice as many as the stage before.
        stem: `"small"`, a convolution with a kernel of 3, which keeps the size; `"image"`, a convolution with a kernel
            of 7 and a max-pool, which divide every side by 4; or `"auto"`, `"small"` for images of up to 64 pixels per
            side, else `"image"`.
        zero_init: the last norm of every block starts with a weight of 0, so that the block starts as the identity,
            Goyal et al. 2017.
        dropout: probability in [0, 1) of dropping a feature.

    Returns:
        A body for `hat.HATModel`: [B, C, H, W] to [B, 8 width].

    Raises:
        TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
        ValueError: an option is out of range.
    """
    return _converted(18, input_shape, width, stem, zero_init, dropout)


def resnet34(
    input_shape: Sequence[int],
    *,
    width: int = 64,
    stem: str = "auto",
    zero_init: bool = True,
    dropout: float = 0.0,
) -> Converted:
    """Four stages of 3, 4, 6 and 3 residual blocks of two convolutions; for the arguments and errors see `resnet18`."""
    return _converted(34, input_shape, width, stem, zero_init, dropout)


def resnet50(
    input_shape: Sequence[int],
    *,
    width: int = 64,
    stem: str = "auto",
    zero_init: bool = True,
    dropout: float = 0.0,
) -> Converted:
    """Four stages of 3, 4, 6 and 3 bottlenecks, to [B, 32 width]; for the arguments and errors see `resnet18`.

    A bottleneck is three convolutions. The first two have the channels of the stage, and the second one may have a
    stride. The last one has four times as many channels.
    """
    return _converted(50, input_shape, width, stem, zero_init, dropout)


class _Block(nn.Module):
    """`relu(branch(x) + shortcut(x))`. If the shape changes, the shortcut is a convolution with a kernel of 1."""

    expansion: int

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = channels * self.expansion
        self.branch = self.make_branch(inputs, channels, stride)
        changes = stride > 1 or inputs != outputs
        self.shortcut = nn.Sequential(*_normed(inputs, outputs, 1, stride)) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def make_branch(self, inputs: int, channels: int, stride: int) -> nn.Sequential:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return y


class _Basic(_Block):
    expansion = 1

    def make_branch(self, inputs: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(*_normed(inputs, channels, 3, stride), nn.ReLU(), *_normed(channels, channels, 3))


class _Bottleneck(_Block):
    expansion = 4

    def make_branch(self, inputs: int, channels: int, stride: int) -> nn.Sequential:
        inside = [*_normed(inputs, channels, 1), nn.ReLU(), *_normed(channels, channels, 3, stride), nn.ReLU()]
        return nn.Sequential(*inside, *_normed(channels, channels * self.expansion, 1))


def _normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution with padding, and its norm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(outputs)]


BLOCKS: dict[int, tuple[type[_Block], tuple[int, ...]]] = {
    18: (_Basic, (2, 2, 2, 2)),
    34: (_Basic, (3, 4, 6, 3)),
    50: (_Bottleneck, (3, 4, 6, 3)),
}
"""The class of the blocks and the number of blocks of every stage, by the number of layers."""


def plain_resnet(
    layers: int,
    input_shape: Sequence[int],
    *,
    width: int = 64,
    stem: str = "auto",
    zero_init: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """The network of plain PyTorch that `resnet18`, `resnet34` and `resnet50` convert.

    Args:
        layers: a key of `BLOCKS`.
        input_shape: see `resnet18`.
        width: see `resnet18`.
        stem: see `resnet18`.
        zero_init: see `resnet18`.
        dropout: see `resnet18`.

    Raises:
        ValueError: an option is out of range.
    """
    channels, height, breadth = check_image(input_shape)
    check_positive(width=width)
    check_probability(dropout, "dropout")
    if stem not in STEMS:
        raise ValueError(f"stem: expected one of {STEMS}, got {stem!r}")
    small = stem == "small" or (stem == "auto" and max(height, breadth) <= SMALL)
    network = nn.Sequential()
    network.add_module("stem", _stem(channels, width, small))
    block, depths = BLOCKS[layers]
    inputs = width
    for stage, depth in enumerate(depths):
        blocks = nn.Sequential()
        for index in range(depth):
            blocks.append(block(inputs, width * 2**stage, 1 if index or not stage else 2))
            inputs = width * 2**stage * block.expansion
        network.add_module(f"stage{stage + 1}", blocks)
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    if dropout:
        network.add_module("dropout", nn.Dropout(dropout))
    if zero_init:
        _start_as_identity(network)
    return network


def _converted(
    layers: int, input_shape: Sequence[int], width: int, stem: str, zero_init: bool, dropout: float
) -> Converted:
    check_arguments(_converted, locals())
    channels, height, breadth = check_image(input_shape)
    make = partial(plain_resnet, layers, input_shape, width=width, stem=stem, zero_init=zero_init, dropout=dropout)
    return converted(make, channels, min(height, ENOUGH), min(breadth, ENOUGH))


def _stem(channels: int, width: int, small: bool) -> nn.Sequential:
    if small:
        return nn.Sequential(*_normed(channels, width, 3), nn.ReLU())
    return nn.Sequential(*_normed(channels, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def _start_as_identity(network: nn.Module) -> None:
    """Let every block start as the identity."""
    for module in network.modules():
        if isinstance(module, _Block):
            last = module.branch[-1]
            assert isinstance(last, nn.BatchNorm2d)
            nn.init.zeros_(last.weight)
