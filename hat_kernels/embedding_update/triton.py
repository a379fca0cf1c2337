"""The step on the embeddings of all gates, by the kernel of SGD, which can also clamp."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.sgd_update.options import SGDOptions
from hat_kernels.sgd_update.triton import sgd_update_


def embedding_update_(
    embeddings: Sequence[Tensor], grads: Sequence[Tensor], momentum_buffers: Sequence[Tensor], options: SGDOptions
) -> None:
    """See `hat_kernels.embedding_update_`."""
    sgd_update_(embeddings, grads, momentum_buffers, [None] * len(embeddings), options)
