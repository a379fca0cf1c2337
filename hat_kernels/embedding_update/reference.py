"""The step of the gate embeddings in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hat_kernels.gate.reference import published_factor
from hat_kernels.parts import widened
from hat_kernels.sgd_update.reference import sgd_update_

SMALLEST = 2.0**-126  # of a normal float32: a quotient by less means nothing


def embedding_update_(
    embeddings: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    limit: float,
    scale: Tensor | None,
    s_max: float,
    compensation: str,
    penalty: float,
    frees: Sequence[Tensor],
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    mend: bool,
    **sgd: Any,
) -> None:
    """See `hat_kernels.embedding_update_`."""
    if found_inf is not None and found_inf.item():
        return
    grads = [widened(grad, mend) for grad in grads]
    if penalty or compensation != "none":
        assert scale is not None
        total = torch.stack([free.sum() for free in frees]).sum() if penalty and frees else torch.zeros(())
        grads = [grad if grad_scale is None else grad * grad_scale for grad in grads]
        grad_scale = None
        pulls: list[Tensor | float] = [0.0] * len(grads)
        if penalty:
            pulls = [_pull(penalty, free, total) for free in frees]
        grads = [
            _compensated(grad, pull, embedding, scale, s_max, compensation)
            for grad, pull, embedding in zip(grads, pulls, embeddings, strict=True)
        ]
    sgd |= {"grad_scale": grad_scale, "weight_decay": 0.0, "found_inf": None, "mend": False}
    sgd_update_(embeddings, grads, momentum_buffers, [None] * len(embeddings), **sgd)
    for embedding in embeddings:
        embedding.clamp_(-limit, limit)
        if mend:
            embedding.nan_to_num_(nan=0.0)


def _pull(penalty: float, free: Tensor, total: Tensor) -> Tensor:
    """The gradient of the penalty in the gate."""
    return torch.where(total > 0, penalty * free / torch.where(total > 0, total, 1), 0.0)


def _compensated(q: Tensor, pull: Tensor | float, e: Tensor, scale: Tensor, s_max: float, compensation: str) -> Tensor:
    """`q` is plain, `da s a (1 - a)`, and `pull` still a gradient in the gate."""
    a = torch.sigmoid(scale * e)
    derivative = (1 - a) * a * scale
    if compensation == "exact":
        unit = torch.sigmoid(e)
        quotient = torch.where(derivative < SMALLEST, 0.0, q / torch.where(derivative < SMALLEST, 1.0, derivative))
        return (quotient + pull) * (s_max * unit * (1 - unit))
    q = q + pull * derivative
    if compensation == "published":
        q = q * published_factor(e, scale, s_max)
    return q
