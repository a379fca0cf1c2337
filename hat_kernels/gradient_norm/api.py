"""The global norm of locked gradients, and the factor that clips by it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.check import check_list, check_number, check_one_device, check_scalar, check_switches
from hat_kernels.dispatch import use_triton
from hat_kernels.gradient_norm import reference
from hat_kernels.lock import Lock, check_locks


def gradient_norm(grads: Sequence[Tensor], locks: Sequence[Lock | None], *, mend: bool = False) -> Tensor:
    """`sqrt(sum over parameters of |rate * grad|^2)`: the global norm of the gradients after locking.

    The gradients are not changed.

    Args:
        grads: at least one gradient, of any shapes and floating dtypes, on one device.
        locks: one for each gradient; None: nothing of the gradient is locked.
        mend: elements that are not finite count as 0.

    Returns:
        0-d, float32 (float64 for float64 gradients), on the device of the gradients. The host does not wait for it.

    Raises:
        ValueError: there is no gradient, the gradients are on several devices, or a lock does not fit.
        TypeError: a gradient is not a dense floating tensor, or the free units of a lock are not float32.
    """
    _check(grads, locks, mend)
    if use_triton("gradient_norm", *grads):
        from hat_kernels.gradient_norm import triton as kernels  # a plain import, which torch.compile can trace

        return kernels.gradient_norm(grads, locks, mend)
    return reference.gradient_norm(grads, locks, mend)


def clip_factor(
    grads: Sequence[Tensor],
    locks: Sequence[Lock | None],
    max_norm: float,
    *,
    grad_scale: Tensor | None = None,
    mend: bool = False,
) -> Tensor:
    """`grad_scale * min(1, max_norm / (grad_scale * norm + 1e-6))`: the factor that clips the gradients.

    `norm` is the norm of `gradient_norm`. The factor scales the gradients by `grad_scale`, then clips them as
    `torch.nn.utils.clip_grad_norm_` does. The gradients are not changed.

    Args:
        grads, locks, mend: as in `gradient_norm`.
        max_norm: > 0.
        grad_scale: 0-d, > 0 (one over a loss scale), or None for 1.

    Returns:
        0-d, as `gradient_norm`.

    Raises:
        ValueError: as `gradient_norm`; or `max_norm` is not positive, or `grad_scale` has not one element.
        TypeError: as `gradient_norm`.
    """
    _check(grads, locks, mend)
    check_number("max_norm", max_norm, above=0, finite=False)
    check_scalar("grad_scale", grad_scale, grads[0].device)
    if use_triton("clip_factor", *grads):
        from hat_kernels.gradient_norm import triton as kernels

        return kernels.clip_factor(grads, locks, max_norm, grad_scale, mend)
    return reference.clip_factor(grads, locks, max_norm, grad_scale, mend)


def _check(grads: Sequence[Tensor], locks: Sequence[Lock | None], mend: bool) -> None:
    check_list("grads", grads)
    if not grads:
        raise ValueError("grads: expected at least one gradient, got none")
    check_locks(locks, grads)
    check_one_device(grads, "grads")
    if not isinstance(mend, bool):
        check_switches(mend=mend)
