"""Dropout that is cheap on a CPU."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.check import NUMBERS, check_tensors, got
from hat_kernels.dropout import reference


def dropout(x: Tensor, probability: float) -> Tensor:
    """Set elements to 0 with a probability, and scale the others so that the expectation is x: Srivastava et al. 2014.

    A CPU draws random numbers one after the other. PyTorch uses a word of 64 bits for each element, which costs a fifth
    of a plain training step. Here several elements share a word:

    - 64 elements for a probability of 1/2
    - 8 elements for any other multiple of 1/256
    - 4 elements for any other probability. It is rounded to a multiple of 2^-16, and the scale fits the rounded value

    Other devices and compiled code use the dropout of PyTorch.

    Args:
        x: any shape, floating. Differentiable.
        probability: in [0, 1).

    Returns:
        Same shape and dtype as `x`; `x` itself for probability 0.

    Raises:
        TypeError: `x` is not a dense floating tensor.
        ValueError: `probability` is out of range.
    """
    check_tensors(x=x)
    check_probability(probability)
    return reference.dropout(x, probability) if probability else x


def check_probability(probability: float, name: str = "probability") -> None:
    """Check a probability.

    Raises:
        ValueError: `probability` is not in [0, 1).
    """
    is_number = isinstance(probability, NUMBERS) and not isinstance(probability, bool)
    if not is_number or not 0 <= probability < 1:
        raise ValueError(f"{name}: expected in [0, 1), got {got(probability)}")
