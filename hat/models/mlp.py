"""The multi-layer perceptron of the HAT paper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from hat.arguments import check_arguments
from hat.conversion.body import Converted
from hat.conversion.fusion import ACTIVATIONS
from hat.models.shapes import converted
from hat_kernels.activation import check_activation
from hat_kernels.dropout.api import check_probability


def mlp(
    in_features: int,
    hidden: Sequence[int] = (2000, 2000),
    *,
    input_dropout: float = 0.2,
    dropout: float = 0.5,
    activation: str = "relu",
) -> Converted:
    """A flatten, a dropout, and gated linear layers with activation and dropout.

    Serrà et al. 2018, section 4.2, have two hidden layers of 2000 units.

    Args:
        in_features: the number of values of one input, which may have any shape.
        hidden: the width of every hidden layer, at least one.
        input_dropout: probability in [0, 1) of dropping an input.
        dropout: probability in [0, 1) of dropping a hidden unit.
        activation: a key of `hat_kernels.ACTIVATIONS`.

    Returns:
        A body for `hat.HATModel`: [B, ...] to [B, hidden[-1]].

    Raises:
        TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
        ValueError: there is no hidden layer, a width is below 1, or an option is out of range.
    """
    check_arguments(mlp, locals())
    make = partial(plain_mlp, in_features, hidden, input_dropout=input_dropout, dropout=dropout, activation=activation)
    return converted(make, in_features)


def plain_mlp(
    in_features: int,
    hidden: Sequence[int] = (2000, 2000),
    *,
    input_dropout: float = 0.2,
    dropout: float = 0.5,
    activation: str = "relu",
) -> nn.Sequential:
    """The network of plain PyTorch that `mlp` converts; its arguments, errors and shapes are those of `mlp`."""
    check_probability(input_dropout, "input_dropout")
    widths = [in_features, *hidden]
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"hidden: expected at least one width, all positive, got {widths}")
    check_activation(activation)
    check_probability(dropout, "dropout")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten(), "dropout": nn.Dropout(input_dropout)}
    for index, (inputs, units) in enumerate(pairwise(widths), 1):
        layers[f"linear{index}"] = nn.Linear(inputs, units)
        layers[f"activation{index}"] = ACTIVATIONS[activation]()
        layers[f"dropout{index}"] = nn.Dropout(dropout)
    return nn.Sequential(OrderedDict(layers))
