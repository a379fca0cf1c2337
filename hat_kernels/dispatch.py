"""Which implementation of an operation runs: `auto`, `reference` or `triton`."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

BACKENDS = ("auto", "reference", "triton")

_requested: contextvars.ContextVar[str] = contextvars.ContextVar("hat_kernels_backend", default="auto")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the implementation of every operation called inside the `with` block.

    Args:
        name: `"auto"` (Triton where there is a kernel for the tensors' device, else the reference), `"reference"`
            (pure PyTorch on any device) or `"triton"` (the kernel, or an error where there is none).

    Raises:
        ValueError: `name` is none of the three.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {name!r}")
    token = _requested.set(name)
    try:
        yield
    finally:
        _requested.reset(token)


def require_reference(op: str) -> None:
    """Refuse `backend("triton")` for an operation that has only its reference.

    Raises:
        NotImplementedError: the caller asked for Triton.
    """
    if _requested.get() == "triton":
        raise NotImplementedError(f"{op}: no Triton kernel in this version; use backend('auto') or 'reference'")
