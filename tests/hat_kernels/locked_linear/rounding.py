"""The allowed distance of two gradients that sum the same products, for the tests of locked layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_same_sums(
    got: Sequence[Tensor],
    reference: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor],
    terms: Sequence[int],
) -> None:
    """Check gradients that are sums of products, added in any order.

    A sum of n products, computed in any order and rounded to the dtype, has an error of (n + 1) eps times the sum of
    the absolute products at most. The reference computes this sum from the absolute values of its inputs.

    Args:
        got: the gradients, all of one dtype.
        reference: makes them of `tensors` in float64.
        tensors: floating.
        terms: n of each gradient.
    """
    wide = [tensor.detach().double() for tensor in tensors]
    exact, sizes = reference(*wide), reference(*(tensor.abs() for tensor in wide))
    for result, value, size, n in zip(got, exact, sizes, terms, strict=True):
        assert result.shape == value.shape
        assert result.dtype == tensors[0].dtype
        assert ((result.double() - value).abs() <= (n + 1) * torch.finfo(result.dtype).eps * size).all()
