"""A linear layer that computes the gradient of its weight only for the weights that may move."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hat_kernels.check import check_tensors, check_units, got
from hat_kernels.dispatch import use_triton
from hat_kernels.locked_linear import reference

Update = Callable[[Tensor, Tensor, Tensor], bool]
"""`update(weight, dz, x)` may move the weight in the backward pass. `dz` is [M, N], `x` is [M, K]. The gradient of the
weight is `dz^T x`. `update` returns whether it has moved the weight. If not, the gradient is computed as usual."""


def locked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    frozen: tuple[int, int],
    update: Update | None = None,
) -> Tensor:
    """`x W^T + bias`, where the leading block `W[:rows, :columns]` does not move, with `frozen = (rows, columns)`.

    The result and the gradient of `x` are those of `torch.nn.functional.linear`. The gradient of W has the full shape.
    It is 0 in the frozen block. One matmul computes it for the free rows, and one for the free columns of the frozen
    rows: see `hat_kernels/frozen.py`. These are all elements with a rate above 0, `rate = max(free_out, free_in)` in
    Serrà et al. 2018, eq. 2. The gradient of the bias is 0 in the frozen rows.

    Differentiable once if W or the bias needs a gradient. On a CPU the memory of the gradient of W is used again at the
    next step, see `hat_kernels/gradient_memory.py`.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].
        frozen: (rows, columns), in 0..N and 0..K. With columns = K, whole rows are frozen.
        update: called in the place of computing the gradient of W, which is then None; see `Update`. On a GPU under
            autocast, `update` gets the weight itself, and dz and x in the lower dtype. It is not called in compiled
            code, nor on a CPU under autocast to another dtype: there the gradient is computed.

    Returns:
        [..., N].

    Raises:
        TypeError: `x` and `weight` differ in dtype outside of autocast, or something is not of the kind described
            above.
        ValueError: a shape or device does not fit, or `frozen` is not in 0..N and 0..K.
        RuntimeError: in the backward pass, if `update` has moved the weight while another use of W still needs it.
    """
    check_linear(x, weight, bias, frozen, update)
    if frozen is None:
        raise TypeError("frozen: expected a tuple of two ints, got None")
    return locked(x, weight, bias, frozen, update)


def locked(x: Tensor, weight: Tensor, bias: Tensor | None, frozen: tuple[int, int], update: Update | None) -> Tensor:
    """`locked_linear` without the checks."""
    if not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))):
        return F.linear(x, weight, bias)
    # Autocast does not cast the inputs of an autograd function.
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        if update is not None and weight.dtype != dtype:
            update = _of_master(weight, update) if use_triton("linear_update_", weight) else None
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if torch.compiler.is_compiling():
        update = None
    return reference.locked_linear(x, weight, bias, frozen, update)


def _of_master(master: Tensor, update: Update) -> Update:
    """`update` called with the weight itself, in the place of the copy in the dtype of autocast."""
    return lambda _, dz, x: update(master, dz, x)


def check_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, frozen: tuple[int, int] | None, update: Update | None
) -> None:
    """Check the arguments of a linear layer.

    Raises:
        TypeError, ValueError: as `locked_linear`; None is allowed for `frozen`.
    """
    check_tensors(x=x, weight=weight)
    if weight.dim() != 2:
        raise ValueError(f"weight: expected shape (N, K), got {tuple(weight.shape)}")
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x: expected shape (..., {weight.shape[1]}), got {tuple(x.shape)}")
    check_same_kind(x, weight, bias)
    if frozen is not None:
        check_frozen(frozen, weight)
    if update is not None and not callable(update):
        raise TypeError(f"update: expected a function or None, got {got(update)}")


def check_same_kind(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Check that an input and a bias are on the device of a weight and, outside of autocast, of its dtype.

    Raises:
        TypeError: a dtype differs, or the bias is not a dense floating tensor.
        ValueError: a device differs, or the bias has not one number for each row of the weight.
    """
    if x.device != weight.device:
        raise ValueError(f"x: expected device {weight.device}, got {x.device}")
    autocast = not x.is_meta and torch.is_autocast_enabled(x.device.type)  # there is no autocast for the meta device
    if x.dtype != weight.dtype and not autocast:
        raise TypeError(f"x: expected {weight.dtype} as the weight, got {x.dtype}")
    if bias is not None:
        check_units("bias", bias, weight.shape[0], weight.device)
        if bias.dtype != weight.dtype and not autocast:
            raise TypeError(f"bias: expected {weight.dtype} as the weight, got {bias.dtype}")


def check_frozen(frozen: tuple[int, int], weight: Tensor) -> None:
    """Check the size of the frozen block of a weight.

    Raises:
        TypeError: `frozen` is not two ints.
        ValueError: `frozen` has more rows or columns than the weight, or fewer than 0.
    """
    if not isinstance(frozen, (list, tuple)) or len(frozen) != 2:
        raise TypeError(f"frozen: expected a tuple of two ints, got {got(frozen)}")
    for name, count, length in zip(("rows", "columns"), frozen, weight.shape, strict=False):
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= length:
            raise ValueError(f"frozen: expected 0 to {length} {name}, got {got(count)}")
