"""Loops of PyTorch fused into one by `torch.compile`, where the caller asked for it and a C++ compiler is there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hat_kernels.dispatch import use_compiled
from hat_kernels.lock import Lock

_LOOPS = 64  # of one function: momentum or none, all of a tensor or the rows behind some, one dimension or two, ...


def fused(loop: Callable[..., Any]) -> Callable[..., Any]:
    """`loop`, compiled under `backend("compiled")`.

    Numbers that change from step to step must come as tensors: of a Python number a new loop is compiled.
    """

    @cache
    def compiled() -> Callable[..., Any]:  # when first asked for: torch.compile imports much
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, _LOOPS)  # for good: to patch it costs as much as a call
        return torch.compile(loop, dynamic=True)

    def either(*arguments: Any) -> Any:
        if wanted():
            return compiled()(*arguments)
        return loop(*arguments)

    return either


def wanted() -> bool:
    """Whether loops are to be compiled, and can be."""
    return use_compiled() and not torch.compiler.is_compiling() and _has_compiler()


def plain(tensors: Sequence[Tensor], lock: Lock | None) -> bool:
    """Whether these are what fused updates are written for: without a lock, float32, on a CPU."""
    return lock is None and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def as_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All in one dimension if they are contiguous, or else in two if they can be: few shapes, few loops to compile."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.view(-1) for tensor in tensors]
    if all(tensor.dim() > 1 and len(tensor) and tensor[0].is_contiguous() for tensor in tensors):
        return [tensor.view(len(tensor), -1) for tensor in tensors]
    return list(tensors)


@cache
def _has_compiler() -> bool:
    """Whether Inductor finds what it needs; warns once where it does not."""
    try:
        torch.compile(torch.neg)(torch.ones(2))
    except Exception as error:  # whatever a missing or broken tool chain makes Inductor raise
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"backend('compiled'): expected a C++ compiler, got {reason}; nothing is compiled", stacklevel=2)
        return False
    return True
