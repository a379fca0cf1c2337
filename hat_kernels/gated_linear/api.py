"""A linear layer with its activation and gate."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.activation import check_activation
from hat_kernels.dispatch import forced, use_triton
from hat_kernels.dropout.api import check_probability
from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation.api import gated_activation
from hat_kernels.gated_linear import choice, reference
from hat_kernels.gated_linear.reference import linear
from hat_kernels.locked_linear.api import Update, check_linear


def gated_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    frozen: tuple[int, int] | None = None,
    update: Update | None = None,
    activation: str = "relu",
    dropout: float = 0.0,
    gate: GateForm | None = None,
) -> Tensor:
    """`dropout(activation(x W^T + bias)) * a`, where a is the gate: Serrà et al. 2018, eq. 1.

    Differentiable in `x`, `weight`, `bias` and `gate.embedding`. On a GPU, each pass (forward, dx, dW) is one kernel of
    this package if it was measured to be the fastest there; see `choice.py`. Otherwise the pass is the matmul of the
    vendor, with `hat_kernels.gated_activation` beside it. `backend("triton")` always uses the kernels. The kernels are
    differentiable once.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].
        frozen: (rows, columns), the size of the leading block of the weight that is locked. Its gradient is 0 and costs
            nothing; see `hat_kernels.locked_linear`. None: the gradient is that of `torch.nn.functional.linear`.
        update: called instead of computing the gradient of the weight; see `hat_kernels.locked_linear`. Only with
            `frozen`.
        activation, dropout, gate: as in `hat_kernels.gated_activation`.

    Returns:
        [..., N].

    Raises:
        TypeError: `x` and `weight` differ in dtype outside of autocast, or `gate` is neither a `GateForm` nor None.
        ValueError: a shape or device does not fit, or as `hat_kernels.gated_activation`.
        RuntimeError: in the backward pass, if `update` has moved the weight while another use of it still needs it.
    """
    check_linear(x, weight, bias, frozen, update)
    if gate is not None and not isinstance(gate, GateForm):
        raise TypeError(f"gate: expected a GateForm or None, got {type(gate).__name__}")
    form = GateForm() if gate is None else gate
    if not use_triton("gated_linear", x, weight, bias, form.embedding, form.scale, form.mask):
        return reference.gated_linear(x, weight, bias, frozen, update, activation, dropout, gate)
    if forced() or choice.takes(x, weight):
        return _fused(
            x, weight, bias, frozen or (0, 0), update if frozen is not None else None, activation, dropout, gate
        )
    if activation == "identity" and not dropout and gate is None:
        return linear(x, weight, bias, frozen, update)
    z = linear(x, weight, None, frozen, update)
    # gated_activation adds the bias in the same pass.
    return gated_activation(z, bias, activation=activation, dropout=dropout, gate=gate)


def _fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    frozen: tuple[int, int],
    update: Update | None,
    activation: str,
    dropout: float,
    gate: GateForm | None,
) -> Tensor:
    from hat_kernels.gated_linear import triton as kernels  # here: a machine without a GPU needs no Triton

    check_activation(activation)
    check_probability(dropout, "dropout")
    if gate is not None:
        gate.check(x, weight.shape[0])
    form = GateForm() if gate is None else gate
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    leaves = [leaf for leaf in (x, weight, bias, form.embedding) if leaf is not None]
    backward = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
    learned = form.embedding is not None and form.embedding.requires_grad
    arguments = [
        bias,
        torch.randint(2**63 - 1, (1,), device=x.device) if dropout else None,
        *form,
        activation,
        dropout,
        *frozen,
        forced(),
        backward and (activation != "identity" or learned),
    ]
    if update is not None and backward and weight.requires_grad and not torch.compiler.is_compiling():
        return kernels.moving(update, x, weight, *arguments)
    return kernels.gated_linear(x, weight.to(x.dtype), *arguments)[0]
