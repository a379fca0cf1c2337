"""The step of the gate embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.dispatch import require_reference
from hat_kernels.embedding_update import reference


def embedding_update_(
    embeddings: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    is_first_step: bool = False,
    limit: float = 6.0,
) -> None:
    """One SGD step on the embeddings of all gates, in place, then `e = clamp(e, ±limit)`.

    Serrà et al. 2018, section 2.5. The gradients come compensated (see `hat_kernels.gate`) and with the penalty in
    them. No weight decay: it would pull every gate towards one half.

    Args:
        embeddings: [N] float32 each.
        grads: one an embedding, same shapes. Not changed.
        momentum_buffers: one an embedding if `momentum` is not 0, else empty.
        lr, momentum, dampening, nesterov, maximize, grad_scale, is_first_step: as in `hat_kernels.sgd_update_`.
        limit: the clamp, > 0.

    Raises:
        ValueError: the lists' lengths or shapes differ, or `limit` is not positive.
    """
    if len(grads) != len(embeddings):
        raise ValueError(f"grads: expected {len(embeddings)}, one an embedding, got {len(grads)}")
    for index, (embedding, grad) in enumerate(zip(embeddings, grads, strict=True)):
        if grad.shape != embedding.shape:
            raise ValueError(f"grads[{index}]: expected {tuple(embedding.shape)}, got {tuple(grad.shape)}")
    if momentum and len(momentum_buffers) != len(embeddings):
        raise ValueError(f"momentum_buffers: expected {len(embeddings)}, got {len(momentum_buffers)}")
    if not limit > 0:
        raise ValueError(f"limit: expected > 0, got {limit}")
    require_reference("embedding_update_")
    reference.embedding_update_(
        embeddings,
        grads,
        momentum_buffers,
        limit=limit,
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        grad_scale=grad_scale,
        is_first_step=is_first_step,
    )
