"""Dropout."""

from __future__ import annotations

from torch import Tensor

from hat_kernels.dropout import reference


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element with `probability` and scale the rest, so that the expectation is x: Srivastava et al. 2014.

    A CPU draws random numbers one after another, and PyTorch spends a 64-bit word of them on every element: a fifth of
    a plain training step. Here four or eight elements share a word, which rounds the probability to a multiple of
    2^-16; the scale follows the rounded one. At one half 64 elements share it. Other devices and compiled code use
    PyTorch's dropout.

    Args:
        x: any shape, floating. Differentiable.
        probability: in [0, 1).

    Returns:
        Same shape and dtype as `x`; `x` itself for probability 0.

    Raises:
        ValueError: `probability` is out of range.
    """
    check_probability(probability)
    return reference.dropout(x, probability) if probability else x


def check_probability(probability: float, name: str = "probability") -> None:
    """Raise a ValueError unless `probability` is in [0, 1)."""
    if not 0 <= probability < 1:
        raise ValueError(f"{name}: expected in [0, 1), got {probability}")
