"""The step on the embeddings of all gates in pure PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.sgd_update.options import SGDOptions
from hat_kernels.sgd_update.reference import sgd_update_


def embedding_update_(
    embeddings: Sequence[Tensor], grads: Sequence[Tensor], momentum_buffers: Sequence[Tensor], options: SGDOptions
) -> None:
    """See `hat_kernels.embedding_update_`."""
    if options.found_inf is not None and options.found_inf.item():
        return
    assert options.limit is not None
    sgd_update_(embeddings, grads, momentum_buffers, [None] * len(embeddings), options._replace(found_inf=None))
    for embedding in embeddings:
        embedding.clamp_(-options.limit, options.limit)
        if options.mend:
            embedding.nan_to_num_(nan=0.0)
