"""Bias, activation, dropout and gate in one operation."""

from __future__ import annotations

import torch
from torch import Tensor

from hat_kernels.activation import check_activation
from hat_kernels.check import check_switches, check_tensors, check_units, got
from hat_kernels.dispatch import use_specification, use_triton
from hat_kernels.dropout.api import check_probability
from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation import cpu, reference


def gated_activation(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    gate: GateForm | None = None,
    unit_dim: int = -1,
    overwrite: bool = False,
) -> Tensor:
    """`dropout(activation(x + bias)) * a` along one axis of units, where a is the gate: Serrà et al. 2018, eq. 1.

    Differentiable in `x`, `bias` and `gate.embedding`; only once if `gate.embedding` is given. Where a mask is 0, the
    result is exactly 0, even if `x` is inf or NaN there.

    Args:
        x: [..., N], or [B, N, ...] with `unit_dim=1`; floating. Arithmetic is in float32 or wider.
        bias: [N].
        activation: a key of `hat_kernels.ACTIVATIONS`.
        dropout: the probability in [0, 1) that an activation is dropped; 0 for evaluation.
        gate: the gate of the N units; None: no gate.
        unit_dim: the dimension of `x` that holds the units, not 0 with a task per sample.
        overwrite: the memory of `x` may be used for the result. Nobody else may need the values of `x`, not even the
            backward pass of the operation that computed `x`.

    Returns:
        A tensor of the shape and dtype of `x`; `x` itself without bias, dropout and gate, for the identity.

    Raises:
        ValueError: a shape or device does not fit `x`, an argument is out of range, or as `GateForm.check`.
        TypeError: `x` is not floating, `gate` is neither a `GateForm` nor None, or as `GateForm.check`.
    """
    check_tensors(x=x)
    if not isinstance(unit_dim, int) or isinstance(unit_dim, bool) or not -x.dim() <= unit_dim < x.dim():
        raise ValueError(f"unit_dim: expected a dimension of x {tuple(x.shape)}, got {got(unit_dim)}")
    if not isinstance(overwrite, bool):
        check_switches(overwrite=overwrite)
    units = x.shape[unit_dim]
    if bias is not None:
        check_units("bias", bias, units, x.device)
    check_activation(activation)
    check_probability(dropout, "dropout")
    if gate is not None and not isinstance(gate, GateForm):
        raise TypeError(f"gate: expected a GateForm or None, got {type(gate).__name__}")
    if gate is not None:
        gate.check(x, units, unit_dim)
    if activation == "identity" and bias is None and not dropout and gate is None:
        return x
    form = GateForm() if gate is None else gate
    if use_triton("gated_activation", x, bias, form.embedding, form.scale, form.mask):
        from hat_kernels.gated_activation import triton as kernels  # here: a machine without a GPU needs no Triton

        seed = torch.randint(2**63 - 1, (1,), device=x.device) if dropout else None
        return kernels.gated_activation(x, bias, seed, *form, activation, dropout, unit_dim)
    if cpu.takes(x, bias, activation, gate) and not use_specification():
        return cpu.gated_activation(
            x, activation=activation, dropout=dropout, gate=gate, unit_dim=unit_dim, overwrite=overwrite
        )
    return reference.gated_activation(x, bias, activation=activation, dropout=dropout, gate=gate, unit_dim=unit_dim)
