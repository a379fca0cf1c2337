"""Memory for weight gradients that is used again at the next step, and a bound of the norm of the gradient in it.

On a CPU, fresh memory for a gradient of 16 MB costs a millisecond or more. Zeros for the locked weights cost as much
again. Together they are a tenth of a training step. So the memory is kept, and so are the zeros in it.

An example. A weight [2000, 784] has 1000 locked rows and 392 locked columns.

1. Step 1: `take(weight, (1000, 392))` allocates memory, writes zeros into its first 1000 rows and 392 columns, and
   gives it out. The caller computes the rest of the gradient and calls `complete`.
2. `optimizer.zero_grad()` drops `weight.grad`. From then on nobody but this file uses the memory.
3. Step 2: `take` gives the same memory out again. The zeros are still there, and none are written.

`take` allocates fresh memory if somebody still uses the old gradient. It writes the zeros again if the frozen block is
another one, or if somebody has changed the gradient in place: PyTorch counts these changes as versions.

On a GPU fresh memory costs nothing, but zeros must be written at each step. There the memory is used again only if the
gradient has a frozen block.
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
    """The memory that is kept for the gradient of one weight.

    Attributes:
        memory: of the shape of the weight.
        frozen: (rows, columns), the size of the block that holds zeros.
        version: the version of the memory when the gradient was complete. Every change in place adds to the version.
        bound: no less than the norm of the gradient; None if no bound is known.
    """

    memory: Tensor
    frozen: tuple[int, int]
    version: int = -1
    bound: float | None = None


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()


def take(weight: Tensor, frozen: tuple[int, int]) -> Tensor:
    """Memory for the gradient of a weight: 0 in the frozen block, undefined elsewhere.

    Args:
        weight: of any shape.
        frozen: (rows, columns), the size of the frozen block.

    Returns:
        A tensor of the shape, dtype and device of `weight`.
    """
    rows, columns = frozen
    if torch.compiler.is_compiling() or not (free_to_read(weight) or (rows and columns)):
        return _fresh(weight, frozen)
    entry = _kept.get(weight)
    usable = entry is not None and _is_unused(entry.memory) and _has_form_of(entry.memory, weight)
    if is_capturing(weight.device):
        return _memory_for_graph(weight, entry if usable else None, frozen)
    if entry is None or not usable:
        entry = _Kept(_allocate_like(weight), frozen)
        _kept[weight] = entry
    if not _holds_zeros(entry, frozen):
        entry.memory[:rows, :columns] = 0
        entry.frozen = frozen
    return entry.memory.detach()  # a new tensor on the same memory, which autograd can make `.grad` without a copy


def _memory_for_graph(weight: Tensor, entry: _Kept | None, frozen: tuple[int, int]) -> Tensor:
    """Memory for the gradient that belongs to the captured graph alone from now on."""
    if entry is None or not _holds_zeros(entry, frozen):
        return _fresh(weight, frozen)
    _kept.pop(weight)
    hold(entry.memory)
    return entry.memory.detach()


def _holds_zeros(entry: _Kept, frozen: tuple[int, int]) -> bool:
    """Whether the frozen block, and no other block, still holds the zeros that `take` wrote."""
    return entry.frozen == frozen and entry.version == entry.memory._version


def _fresh(weight: Tensor, frozen: tuple[int, int]) -> Tensor:
    grad, (rows, columns) = weight.new_empty(weight.shape), frozen
    if rows and columns:
        grad[:rows, :columns] = 0
    return grad


def complete(weight: Tensor, grad: Tensor, bound: Callable[[], Tensor] | None = None) -> None:
    """Note that the gradient of a weight is computed.

    Args:
        weight: as given to `take`.
        grad: the tensor that `take` returned.
        bound: returns a 0-d tensor that is no less than the norm of the gradient. It is called only if its result can
            be read without waiting for the device.
    """
    entry = None if torch.compiler.is_compiling() else _kept.get(weight)
    if entry is not None and entry.memory.data_ptr() == grad.data_ptr():
        entry.version = grad._version
        entry.bound = bound().item() if bound is not None and free_to_read(weight) else None


def norm_bound(weight: Tensor) -> float | None:
    """A number that is no less than the norm of `weight.grad`, or None if no such number is known.

    The number is known if the gradient was computed in one piece and has not changed since. Some changes are not seen,
    because PyTorch does not count them as versions: changes through `.data` or `.numpy()`, and those of a `GradScaler`.
    If several processes train together, the number is never known, because they change gradients in the same way.
    """
    entry, grad = _kept.get(weight), weight.grad
    if (
        entry is None
        or grad is None
        or _trains_in_several_processes()
        or grad.data_ptr() != entry.memory.data_ptr()
        or grad._version != entry.version
    ):
        return None
    return entry.bound


def release(weight: Tensor) -> None:
    """Free the memory that is kept for the gradient of a weight."""
    _kept.pop(weight, None)


def _trains_in_several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _allocate_like(weight: Tensor) -> Tensor:
    """Memory like the weight: contiguous for a matrix, in the memory format of the weight for a convolution."""
    memory_format = torch.contiguous_format if weight.dim() <= 2 else torch.preserve_format
    return torch.empty_like(weight, memory_format=memory_format)


def _has_form_of(memory: Tensor, weight: Tensor) -> bool:
    same = memory.shape == weight.shape and memory.dtype == weight.dtype and memory.device == weight.device
    return same and (weight.dim() <= 2 or memory.stride() == weight.stride())


def _is_unused(memory: Tensor) -> bool:
    """Whether nobody else uses this memory: its storage is held as often as that of a tensor made just now."""
    counts = _holder_counts(memory)
    return counts is not None and counts == _holder_counts(torch.empty(1))


def _holder_counts(memory: Tensor) -> tuple[int, int] | None:
    """(by tensors, by Python), how often the storage is held; None if PyTorch does not tell."""
    count = getattr(torch._C, "_storage_Use_Count", None)  # private; if PyTorch drops it, memory is not used again
    storage = memory.untyped_storage()
    return None if count is None else (count(storage._cdata), sys.getrefcount(storage))
