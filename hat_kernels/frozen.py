"""The frozen block of a weight and the free area around it.

Locked units lie at the front of their axis. The weights from locked units to locked units are therefore one block at
the top left of the weight matrix: its first `rows` rows and first `columns` columns. These weights may not move. The
free area around the block has the shape of an L, and two rectangles cover it. For a weight [6, 5] with
`frozen = (4, 2)`, `#` frozen, `a` and `b` free:

    # # b b b
    # # b b b
    # # b b b
    # # b b b
    a a a a a
    a a a a a

Rectangle a is every free row as a whole, `[4:, :]`. Rectangle b is the free columns of the frozen rows, `[0:4, 2:]`.
The gradient of the weight is one matmul for each rectangle: 22 of 30 elements are computed, and the frozen 8 are 0.
"""

from __future__ import annotations

from typing import Any


def free_blocks(frozen: tuple[int, int]) -> list[tuple[slice, slice]]:
    """The rectangles, as (rows, columns), that cover the free area of a weight; see the top of this file."""
    rows, columns = frozen
    free_rows = (slice(rows, None), slice(None))
    return [free_rows, (slice(0, rows), slice(columns, None))] if rows else [free_rows]


def saved_tensors(ctx: Any) -> tuple[Any, ...]:
    """The saved tensors of an autograd function whose `update` may move the weight in the backward pass.

    Raises:
        RuntimeError: an `update` has moved the weight since the forward pass.
    """
    try:
        tensors: tuple[Any, ...] = ctx.saved_tensors
    except RuntimeError as error:
        if ctx.update is None:
            raise
        raise RuntimeError(
            "in_backward: the weight has moved since its forward pass; use in_backward=False if a layer is used twice, "
            "or if one step has two forward passes"
        ) from error
    return tensors
