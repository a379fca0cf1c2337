"""The variants that are compared."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import hat_kernels


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a variant runs.

    Attributes:
        kind: `"plain"`, `"textbook"` or `"ours"`.
        flush: the process takes subnormal numbers as 0. Neither the published code nor `textbook` sets this mode.
        in_backward: weights move inside the matmul that would compute their gradient. Then no gradients exist, so none
            are clipped.
        compiled: Inductor compiles the elementwise operations.
    """

    kind: str = "ours"
    flush: bool = True
    in_backward: bool = False
    compiled: bool = False

    def backend(self) -> AbstractContextManager[None]:
        """The context in which the steps run."""
        return hat_kernels.backend("compiled") if self.compiled else nullcontext()


PLAIN, TEXTBOOK, FLUSHED = "plain", "textbook", "textbook, flush mode"
OURS, IN_MATMUL, COMPILED = "ours", "ours, update in matmul", "ours, compiled"
UNFLUSHED = "ours, no flush mode"

VARIANTS = {
    PLAIN: Variant(kind="plain"),
    TEXTBOOK: Variant(kind="textbook", flush=False),
    FLUSHED: Variant(kind="textbook"),
    OURS: Variant(),
    IN_MATMUL: Variant(in_backward=True),
    COMPILED: Variant(compiled=True),
    UNFLUSHED: Variant(flush=False),
}
