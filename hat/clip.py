"""Clipping by the global norm of what may move."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import hat_kernels
from hat_kernels import Lock


def clip_factor(grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float) -> Tensor | None:
    """The factor in (0, 1] that brings the global norm of the locked gradients down to `max_norm`.

    Returns:
        0-d tensor `min(1, max_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` has it; None for a factor of
        1 on a CPU, where looking at it is free.
    """
    # No lock makes a norm larger: if the unlocked norm passes, the pass that locks it is saved.
    if grads[0].device.type == "cpu" and hat_kernels.gradient_norm(grads, [None] * len(grads)) <= max_norm:
        return None
    return (max_norm / (hat_kernels.gradient_norm(grads, locks) + 1e-6)).clamp(max=1.0)
