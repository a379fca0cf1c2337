"""Memory of weight gradients that outlives a step, and a bound of what it holds.

On a CPU a gradient of 16 MB costs a millisecond or more of fresh pages, and as much again to be filled with zeros where
nothing may move: a tenth of a training step. Here it is given out again once nobody uses it, its zeros still in place.
On a GPU fresh memory costs nothing, but zeros are written at every step; it is given out again where there are some.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from hat_kernels.capturing import hold, is_capturing
from hat_kernels.dispatch import free_to_read


@dataclass
class _Kept:
    """What belongs to a weight.

    Attributes:
        memory: of the weight's shape.
        frozen: the leading rows and columns that are 0 where they meet.
        version: of the memory when the gradient was complete; it counts on when somebody changes it in place.
        bound: of the norm.
    """

    memory: Tensor
    frozen: tuple[int, int]
    version: int = -1
    bound: float | None = None


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def take(weight: Tensor, frozen: tuple[int, int]) -> Tensor:
    """A tensor like the weight: 0 where the leading `frozen` rows and columns meet, anything elsewhere."""
    rows, columns = frozen
    if torch.compiler.is_compiling() or not (free_to_read(weight) or (rows and columns)):
        return _fresh(weight, frozen)
    kept = _kept.get(weight)
    usable = kept is not None and _is_unused(kept.memory) and _is_like(kept.memory, weight)
    if is_capturing(weight.device):
        return _graphs_own(weight, kept if usable else None, frozen)
    if kept is None or not usable:
        kept = _Kept(_like(weight), frozen)
        _kept[weight] = kept
    if not _is_clean(kept, frozen):
        kept.memory[:rows, :columns] = 0
        kept.frozen = frozen
    return kept.memory.detach()  # another tensor on the same memory: autograd makes it `.grad` without a copy


def _graphs_own(weight: Tensor, kept: _Kept | None, frozen: tuple[int, int]) -> Tensor:
    """Memory that nobody but the graph that is being captured will use from now on."""
    if kept is None or not _is_clean(kept, frozen):
        return _fresh(weight, frozen)
    _kept.pop(weight)
    hold(kept.memory)
    return kept.memory.detach()


def _is_clean(kept: _Kept, frozen: tuple[int, int]) -> bool:
    """What must be 0 is 0."""
    return kept.frozen == frozen and kept.version == kept.memory._version


def _fresh(weight: Tensor, frozen: tuple[int, int]) -> Tensor:
    grad, (rows, columns) = weight.new_empty(weight.shape), frozen
    if rows and columns:
        grad[:rows, :columns] = 0
    return grad


def complete(weight: Tensor, grad: Tensor, bound: Callable[[], Tensor] | None = None) -> None:
    """Note that the gradient of a weight is computed.

    Args:
        grad: what `take` gave.
        bound: 0-d, no less than the norm of the gradient, if there is one; asked for where it is free to read.
    """
    kept = None if torch.compiler.is_compiling() else _kept.get(weight)
    if kept is not None and kept.memory.data_ptr() == grad.data_ptr():
        kept.version = grad._version
        kept.bound = bound().item() if bound is not None and free_to_read(weight) else None


def norm_bound(weight: Tensor) -> float | None:
    """A number no less than the norm of `weight.grad`, or None where none is known.

    It is known of a gradient that was computed in one piece and not changed since. What PyTorch does not count is not
    seen: a change through `.data` or `.numpy()`, or by a `GradScaler`. Where processes train together, which reduce
    gradients behind its back, nothing is known.
    """
    kept, grad = _kept.get(weight), weight.grad
    if (
        kept is None
        or grad is None
        or _has_company()
        or grad.data_ptr() != kept.memory.data_ptr()
        or grad._version != kept.version
    ):
        return None
    return kept.bound


def release(weight: Tensor) -> None:
    """Keep no memory for the gradient of this weight."""
    _kept.pop(weight, None)


def _has_company() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _like(weight: Tensor) -> Tensor:
    """Rows of a matrix one after another; the channels of a convolution where its weight has them."""
    memory_format = torch.contiguous_format if weight.dim() <= 2 else torch.preserve_format
    return torch.empty_like(weight, memory_format=memory_format)


def _is_like(memory: Tensor, weight: Tensor) -> bool:
    same = memory.shape == weight.shape and memory.dtype == weight.dtype and memory.device == weight.device
    return same and (weight.dim() <= 2 or memory.stride() == weight.stride())


def _is_unused(memory: Tensor) -> bool:
    """No other tensor lies on this memory, and nobody holds its storage: as of a tensor that was made just now."""
    holders = _holders(memory)
    return holders is not None and holders == _holders(torch.empty(1))


def _holders(memory: Tensor) -> tuple[int, int] | None:
    """How often the storage is held, by tensors and in Python; None where PyTorch does not say."""
    count = getattr(torch._C, "_storage_Use_Count", None)  # private: without it, memory is not given out again
    storage = memory.untyped_storage()
    return None if count is None else (count(storage._cdata), sys.getrefcount(storage))
