"""What the operations with a `frozen` block share, in pure PyTorch and in kernels."""

from __future__ import annotations

from typing import Any


def free_blocks(frozen: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of what lies outside of the frozen block."""
    rows, columns = frozen
    below = (slice(rows, None), slice(None))
    return [below, (slice(0, rows), slice(columns, None))] if rows else [below]


def saved(ctx: Any) -> tuple[Any, ...]:
    """The saved tensors of a Function with an `update`.

    Raises:
        RuntimeError: the weight has moved since.
    """
    try:
        tensors: tuple[Any, ...] = ctx.saved_tensors
    except RuntimeError as error:
        if ctx.update is None:
            raise
        raise RuntimeError(
            "in_backward: the weight has moved since its forward pass: a layer that is used twice, or two forward "
            "passes for one step, need the gradient, use in_backward=False"
        ) from error
    return tensors
