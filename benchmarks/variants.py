"""The variants that are compared: what each runs, and in which mode of its process."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import hat_kernels


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a variant runs.

    Attributes:
        kind: `"plain"`, `"textbook"` or `"ours"`.
        flush: the process flushes subnormal numbers to zero. The published code does not set that, nor does `textbook`.
        in_backward: weights move inside the matmul that would make their gradient; that leaves nothing to clip.
        compiled: elementwise operations go through Inductor.
    """

    kind: str = "ours"
    flush: bool = True
    in_backward: bool = False
    compiled: bool = False

    def backend(self) -> AbstractContextManager[None]:
        """What its steps run under."""
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
