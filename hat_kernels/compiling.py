"""Several loops over memory, fused into one by `torch.compile`: for `backend("compiled")`, with a C++ compiler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hat_kernels.dispatch import use_compiled
from hat_kernels.lock import Lock

_LOOPS = 64  # compiled versions of a function at most: with and without momentum, for one dimension or two, ...


def fused(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs `loop`, compiled under `backend("compiled")`.

    Numbers that change from step to step must be tensors: for each new Python number, a new loop would be compiled.
    """

    @cache
    def compiled() -> Callable[..., Any]:  # not before the first call: torch.compile imports many modules
        config = torch._dynamo.config
        # Never set back: setting the limit for each call would cost as much as the call.
        config.recompile_limit = max(config.recompile_limit, _LOOPS)
        return torch.compile(loop, dynamic=True)

    def compiled_or_plain(*arguments: Any) -> Any:
        if compiles():
            return compiled()(*arguments)
        return loop(*arguments)

    return compiled_or_plain


def compiles() -> bool:
    """Whether the caller asked for compiled loops, and they can be compiled."""
    return use_compiled() and not torch.compiler.is_compiling() and _has_compiler()


def are_plain(tensors: Sequence[Tensor], lock: Lock | None) -> bool:
    """Whether a fused update can treat these tensors: float32, on a CPU, without a lock."""
    return lock is None and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def as_rows(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in one dimension if all are contiguous, else in two if possible: few shapes, few compiled loops."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return [tensor.view(-1) for tensor in tensors]
    if all(tensor.dim() > 1 and len(tensor) and tensor[0].is_contiguous() for tensor in tensors):
        return [tensor.view(len(tensor), -1) for tensor in tensors]
    return list(tensors)


@cache
def _has_compiler() -> bool:
    """Whether Inductor finds a compiler; if not, warns once."""
    try:
        torch.compile(torch.neg)(torch.ones(2))
    except Exception as error:  # Inductor raises various errors if the tool chain is missing or broken
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"backend('compiled'): expected a C++ compiler, got {reason}; nothing is compiled", stacklevel=2)
        return False
    return True
