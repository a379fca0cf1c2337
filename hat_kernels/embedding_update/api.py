"""The step of the optimizer on the embeddings of all gates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from hat_kernels.check import (
    check_changeable,
    check_list,
    check_number,
    check_one_device,
    check_parallel,
    check_states,
)
from hat_kernels.dispatch import use_triton
from hat_kernels.embedding_update import reference
from hat_kernels.sgd_update.options import SGDOptions


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
    found_inf: Tensor | None = None,
    mend: bool = False,
) -> None:
    """One SGD step on the embeddings of all gates, then a clamp, in place.

    The step is that of `hat_kernels.sgd_update_`, without locks and without weight decay, which would pull each gate
    towards 1/2. Then `e = clamp(e, ±limit)`: Serrà et al. 2018, section 2.5. The gradients contain the compensation of
    `hat_kernels.gate` and the penalty already.

    Args:
        embeddings: [N] float32, one for each gate, on one device.
        grads: one for each embedding, of its shape. Not changed.
        momentum_buffers: one for each embedding, of its dtype or float32; empty if `momentum` is 0.
        lr, momentum, dampening, nesterov, maximize, grad_scale, is_first_step: as in `hat_kernels.sgd_update_`.
        limit: the bound of the clamp, > 0.
        found_inf: 0-d float32; if it is not 0, no step is made. None: the step is made.
        mend: elements of a gradient that are not finite count as 0, and an embedding that becomes NaN is written as 0.

    Raises:
        ValueError: the lists differ in length, shapes or devices, an option is out of range, or autograd records a
            change of an embedding.
        TypeError: something is not a dense floating tensor, or a momentum buffer is neither of the embedding's dtype
            nor float32.
    """
    options = SGDOptions(
        lr, momentum, dampening, nesterov, 0.0, maximize, grad_scale, is_first_step, found_inf, mend, limit
    )
    check_list("embeddings", embeddings)
    options.check(check_one_device(embeddings, "embeddings"))
    check_changeable(embeddings=embeddings)
    if not isinstance(limit, float) or not 0 < limit < math.inf:
        check_number("limit", limit, above=0)
    check_parallel("grads", grads, embeddings, "an embedding")
    if momentum:
        check_states("momentum_buffers", momentum_buffers, embeddings, "an embedding")
    update = reference.embedding_update_
    if use_triton("embedding_update_", *embeddings, *grads):
        from hat_kernels.embedding_update import triton as kernels  # a plain import, which torch.compile can trace

        update = kernels.embedding_update_
    update(embeddings, grads, momentum_buffers if momentum else [], options)
