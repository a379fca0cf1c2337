"""The step on the embeddings of all gates in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hat_kernels.sgd_update.reference import sgd_update_


def embedding_update_(
    embeddings: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    *,
    limit: float,
    found_inf: Tensor | None,
    mend: bool,
    **sgd: Any,
) -> None:
    """See `hat_kernels.embedding_update_`."""
    if found_inf is not None and found_inf.item():
        return
    no_locks = [None] * len(embeddings)
    sgd_update_(embeddings, grads, momentum_buffers, no_locks, weight_decay=0.0, found_inf=None, mend=mend, **sgd)
    for embedding in embeddings:
        embedding.clamp_(-limit, limit)
        if mend:
            embedding.nan_to_num_(nan=0.0)
