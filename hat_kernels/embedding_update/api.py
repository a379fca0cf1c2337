"""The step of the gate embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from hat_kernels.check import check_one_device, check_parallel, check_scalar, check_states
from hat_kernels.dispatch import use_triton
from hat_kernels.embedding_update import reference

COMPENSATIONS = ("none", "published", "exact")


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
    scale: Tensor | None = None,
    s_max: float = 400.0,
    compensation: str = "none",
    penalty: float = 0.0,
    frees: Sequence[Tensor] = (),
    found_inf: Tensor | None = None,
    mend: bool = False,
) -> None:
    """Penalty, compensation, one SGD step and a clamp of the embeddings of all gates, in place.

    Serrà et al. 2018, sections 2.4 and 2.5. With `a = sigmoid(s e)` and `q = grad_scale * grad`, what the loss says:

    - `q += penalty * free / (sum of free over all gates) * s a (1 - a)`, the gradient of `penalty * R`; 0 where nothing
      is free
    - `g` is, by compensation, `none`: `q`; `published`: `q s_max (cosh(clamp(s e, ±50)) + 1) / (s (cosh(e) + 1))`;
      `exact`: `q s_max sigmoid(e) (1 - sigmoid(e)) / (s a (1 - a))`, the quotient of a part that has underflowed being
      0 for the loss and in closed form for the penalty
    - the step of `hat_kernels.sgd_update_` with `g`, without weight decay: it would pull every gate towards one half
    - `e = clamp(e, ±limit)`

    By default the gradients come compensated (see `hat_kernels.gate`) and with the penalty in them.

    Args:
        embeddings: [N] float32 each, one device.
        grads: one an embedding, same shapes. Not changed.
        momentum_buffers: one an embedding if `momentum` is not 0, else empty.
        lr, momentum, dampening, nesterov, maximize, grad_scale, is_first_step: as in `hat_kernels.sgd_update_`.
        limit: the clamp, > 0.
        scale: `s`, 0-d float32, > 0; needed for a compensation or a penalty.
        s_max: the final scale, > 0.
        compensation: `"none"`, `"published"` or `"exact"`: what the plain `q = da s a (1 - a)` is multiplied with.
        penalty: `lamb`, >= 0.
        frees: one an embedding, same shapes, float32, `1 - used`; needed for a penalty.
        found_inf: 0-d float32; if it is not 0, nothing happens. None: the step is taken.
        mend: a gradient that is not finite counts as 0, and an embedding that came out NaN is written as 0.

    Raises:
        ValueError: the lists' lengths or shapes differ, an option is out of range, or `scale` or `frees` is missing.
        TypeError: a momentum buffer is neither of the embedding's dtype nor float32.
    """
    check_parallel("grads", grads, embeddings, "an embedding")
    if momentum:
        check_states("momentum_buffers", momentum_buffers, embeddings, "an embedding")
    if not limit > 0:
        raise ValueError(f"limit: expected > 0, got {limit}")
    if not s_max > 0:
        raise ValueError(f"s_max: expected > 0, got {s_max}")
    if compensation not in COMPENSATIONS:
        raise ValueError(f"compensation: expected one of {COMPENSATIONS}, got {compensation!r}")
    if not penalty >= 0:
        raise ValueError(f"penalty: expected >= 0, got {penalty}")
    if penalty:
        check_parallel("frees", frees, embeddings, "an embedding")
    if scale is None and (penalty or compensation != "none"):
        raise ValueError("scale: expected a 0-d tensor for a compensation or a penalty, got None")
    for name, value in (("scale", scale), ("grad_scale", grad_scale), ("found_inf", found_inf)):
        check_scalar(name, value)
    check_one_device(embeddings, "embeddings")
    update: Callable[..., None] = reference.embedding_update_
    if use_triton("embedding_update_", *embeddings, *grads):
        from hat_kernels.embedding_update import triton as kernels  # torch.compile traces this, but not importlib

        update = kernels.embedding_update_
    update(
        embeddings,
        grads,
        momentum_buffers if momentum else [],
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        grad_scale=grad_scale,
        is_first_step=is_first_step,
        limit=limit,
        scale=scale,
        s_max=s_max,
        compensation=compensation,
        penalty=penalty,
        frees=frees if penalty else [],
        found_inf=found_inf,
        mend=mend,
    )
