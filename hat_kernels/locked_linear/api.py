"""A linear map whose weight gradient is computed only where the weight may move."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hat_kernels.dispatch import use_triton
from hat_kernels.locked_linear import reference

Update = Callable[[Tensor, Tensor, Tensor], bool]
"""`update(weight, dz, x)`, with dz [M, N] and x [M, K], moves the weight by `dz^T x` in its own way. It returns whether
it did; where not, the gradient is computed after all."""


def locked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    frozen: tuple[int, int],
    update: Update | None = None,
) -> Tensor:
    """`x W^T + bias`, where the first `frozen` rows and columns of W do not move where they meet.

    The result and the gradient of `x` are those of `torch.nn.functional.linear`. The gradient of W is full-shaped, 0 in
    the frozen block, and computed by one matmul for the free rows and one for the free columns of the other rows: with
    `rate = max(free_out, free_in)` of Serrà et al. 2018, eq. 2, those are all elements of rate above 0. The gradient of
    the bias is 0 in the frozen rows. Differentiable once, where the gradient of W is needed.

    On a CPU the memory of the gradient is used again when nobody else does, see `hat_kernels.gradient_memory`.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].
        frozen: (rows, columns), in 0..N and 0..K. Columns = K freezes whole rows.
        update: takes the place of the weight gradient, which is then None; see `Update`. Not in compiled code, nor on a
            CPU under autocast to another dtype: there the gradient is computed. On a GPU under autocast it gets the
            weight itself, and dz and x in the lower dtype.

    Returns:
        [..., N].

    Raises:
        ValueError: `frozen` is out of range.
        RuntimeError: in the backward pass, `update` has moved a weight that another use of it still needs.
    """
    check_frozen(frozen, weight)
    if not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        return F.linear(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:  # it casts nothing that a Function gets
        dtype = torch.get_autocast_dtype(x.device.type)
        if update is not None and weight.dtype != dtype:
            update = _of(weight, update) if use_triton("linear_update_", weight) else None
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if torch.compiler.is_compiling():
        update = None
    return reference.locked_linear(x, weight, bias, frozen, update)


def _of(master: Tensor, update: Update) -> Update:
    """The update of the weight itself in the place of its copy in another dtype."""
    return lambda _, dz, x: update(master, dz, x)


def check_frozen(frozen: tuple[int, int], weight: Tensor) -> None:
    """Raise a ValueError unless `frozen` is a number of rows and of columns of the weight."""
    for name, count, length in zip(("rows", "columns"), frozen, weight.shape, strict=False):
        if not 0 <= count <= length:
            raise ValueError(f"frozen: expected 0 to {length} {name}, got {count}")
