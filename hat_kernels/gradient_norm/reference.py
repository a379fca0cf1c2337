"""The global norm of locked gradients in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels.lock import Lock, rate
from hat_kernels.parts import widened


def gradient_norm(grads: Sequence[Tensor], locks: Sequence[Lock | None], mend: bool) -> Tensor:
    """See `hat_kernels.gradient_norm`."""
    norms = [_norm(grad, lock, mend) for grad, lock in zip(grads, locks, strict=True)]
    return torch.linalg.vector_norm(torch.stack(norms))


def clip_factor(
    grads: Sequence[Tensor], locks: Sequence[Lock | None], max_norm: float, grad_scale: Tensor | None, mend: bool
) -> Tensor:
    """See `hat_kernels.clip_factor`."""
    norm = gradient_norm(grads, locks, mend)
    if grad_scale is None:
        return (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return grad_scale * (max_norm / (grad_scale * norm + 1e-6)).clamp(max=1.0)


def _norm(grad: Tensor, lock: Lock | None, mend: bool) -> Tensor:
    dtype = torch.promote_types(grad.dtype, torch.float32)
    if mend:
        grad = widened(grad, mend)
    if lock is not None:
        rates = rate(lock, grad)
        grad = torch.where(rates == 0, 0.0, grad * rates)
    if grad.is_contiguous() and grad.dtype == dtype:  # on a CPU a dot product takes half the time of a norm
        return torch.dot(grad.flatten(), grad.flatten()).sqrt()
    return torch.linalg.vector_norm(grad, dtype=dtype)
