"""The multi-layer perceptron of the HAT paper."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from hat.layers.chain import chain
from hat.layers.dropout import Dropout
from hat.layers.gated import HATLinear
from hat_kernels.dropout.api import check_probability


def mlp(
    in_features: int,
    hidden: Sequence[int] = (2000, 2000),
    *,
    input_dropout: float = 0.2,
    dropout: float = 0.5,
    activation: str = "relu",
) -> nn.Sequential:
    """Flatten, dropout, then gated linear layers: Serrà et al. 2018, section 4.2 (two of 2000 units).

    Args:
        in_features: values of one input, any shape.
        hidden: the width of every hidden layer, at least one.
        input_dropout: probability in [0, 1) of dropping an input.
        dropout: probability in [0, 1) of dropping a hidden unit.
        activation: a key of `hat_kernels.ACTIVATIONS`.

    Returns:
        A body for `hat.HATModel`: [B, ...] to [B, hidden[-1]].

    Raises:
        ValueError: no hidden layer, a width below 1, or an option out of range.
    """
    check_probability(input_dropout, "input_dropout")
    widths = [in_features, *hidden]
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"hidden: expected at least one width, all positive, got {widths}")
    layers = {
        f"linear{index}": HATLinear(inputs, units, activation=activation, dropout=dropout)
        for index, (inputs, units) in enumerate(pairwise(widths), 1)
    }
    return chain(flatten=nn.Flatten(), dropout=Dropout(input_dropout), **layers)
