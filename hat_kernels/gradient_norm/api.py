"""The global norm of locked gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hat_kernels.dispatch import require_reference
from hat_kernels.gradient_norm import reference
from hat_kernels.lock import Lock, check_locks


def gradient_norm(grads: Sequence[Tensor], locks: Sequence[Lock | None]) -> Tensor:
    """`sqrt(sum over parameters of |rate * grad|^2)`: what clipping by global norm compares after locking.

    The gradients are not changed.

    Args:
        grads: at least one, any floating shapes and dtypes, one device.
        locks: one a gradient; None where nothing is locked.

    Returns:
        0-d, float32 (float64 for float64 gradients), on the gradients' device; no host synchronisation.

    Raises:
        ValueError: no gradient, or a lock that does not fit.
    """
    if not grads:
        raise ValueError("grads: expected at least one gradient, got none")
    check_locks(locks, grads)
    require_reference("gradient_norm")
    return reference.gradient_norm(grads, locks)
