"""Lists of parameters with locks, for the tests of all operations that update parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hat_kernels import Lock
from hat_kernels.lock import rate
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.locks import free_units
from tests.hat_kernels.shapes import normal

Case = tuple[list[Tensor], list[Lock | None]]


def on_device(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return normal(shape, dtype, seed).to(DEVICE)


def free(units: int, *, soft: bool = False, seed: int = 0) -> Tensor:
    return free_units(units, soft=soft, seed=seed).to(DEVICE)


def mixed_dtypes() -> Case:
    """Locked weights of both forms: wide ones (SEPARABLE), and narrow or odd-sized ones (GATHERED)."""
    parameters, locks = [], []
    for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
        parameters += [on_device((11, 264), dtype, seed), on_device((11,), dtype, seed), on_device((3, 7), dtype, seed)]
        rows = free(11, soft=True, seed=seed)
        locks += [Lock(rows, free(264, soft=True, seed=seed + 1)), Lock(rows), None]
    return parameters, locks


def shapes() -> Case:
    """Parameters with no lock, only rows, only columns, repeats, groups, five dimensions; a scalar; empty ones."""
    cases: list[tuple[tuple[int, ...], Lock | None]] = [
        ((), Lock(torch.zeros(1))),
        ((), None),
        ((0,), Lock(torch.ones(0))),
        ((0, 3), None),
        ((2049,), None),
        ((13, 136), Lock(free(13, seed=1))),
        ((13, 136), Lock(None, free(136, seed=2))),
        ((12, 160), Lock(free(4, seed=3), free(32, seed=4), row_repeat=3, column_repeat=5)),
        ((12, 30), Lock(free(4, seed=3), free(6, seed=4), row_repeat=3, column_repeat=5)),
        ((6, 16, 3, 3), Lock(free(6, seed=5), free(16, seed=6))),
        ((6, 5, 3, 3), Lock(free(6, seed=5), free(5, seed=6))),
        ((6, 2, 3, 3), Lock(free(6, seed=7), free(6, seed=8), groups=3)),
        ((6, 16, 3, 3), Lock(free(6, seed=7), free(32, seed=8), groups=2)),
        ((8, 1, 5), Lock(free(8, seed=9), free(8, seed=10), groups=8)),
        ((4, 3, 1, 2, 5), Lock(free(4, seed=11), free(3, seed=12))),
        ((16, 264), Lock(torch.zeros(16), torch.zeros(264))),
    ]
    parameters = [on_device(shape, seed=index) for index, (shape, _) in enumerate(cases)]
    return parameters, [lock and moved(lock) for _, lock in cases]


def unaligned() -> Case:
    """A parameter whose storage is not aligned for 128-bit loads."""
    wide = [on_device((n,), seed=n)[1:] for n in (2 * 264 + 1, 41)]
    parameters = [wide[0].view(2, 264), wide[1]]
    return parameters, [Lock(free(2, seed=1), free(264, seed=2)), None]


def layouts() -> Case:
    """Channels-last, transposed and strided parameters."""
    four = on_device((6, 16, 3, 3)).to(memory_format=torch.channels_last)
    odd = on_device((5, 3, 2, 3)).to(memory_format=torch.channels_last)
    five = on_device((4, 8, 2, 2, 4)).to(memory_format=torch.channels_last_3d)
    transposed = on_device((136, 9)).t()
    strided = on_device((7, 30))[:, ::2]
    locks: list[Lock | None] = [
        Lock(free(6, seed=1), free(16, seed=2)),
        Lock(free(5, seed=3), free(3, seed=4)),
        Lock(free(4, seed=5), free(8, seed=6)),
        Lock(free(9, seed=7), free(136, seed=8)),
        Lock(free(7, seed=9), free(15, seed=10)),
    ]
    return [four, odd, five, transposed, strided], locks


def rows_of_larger() -> Case:
    """Views of the free area beside a frozen block: wide and narrow, aligned for 128-bit loads and not aligned."""
    whole = [on_device((12, 560), seed=1), on_device((9, 40), torch.bfloat16, 2), on_device((7, 12, 3, 3), seed=3)]
    parts = [whole[0][:5, 296:], whole[0][5:9, 301:], whole[1][:4, 8:], whole[1][4:, 7:], whole[2][:6, 5:]]
    locks = [
        Lock(None, free(264, seed=1)),
        None,
        None,
        Lock(None, free(33, soft=True, seed=2)),
        Lock(None, free(7, seed=3)),
    ]
    return parts, locks


LISTS: dict[str, Callable[[], Case]] = {
    function.__name__: function for function in (mixed_dtypes, shapes, unaligned, layouts, rows_of_larger)
}


def moved(lock: Lock) -> Lock:
    """The lock on the device of the tests."""
    return lock._replace(
        rows=None if lock.rows is None else lock.rows.to(DEVICE),
        columns=None if lock.columns is None else lock.columns.to(DEVICE),
    )


def grads_for(parameters: Sequence[Tensor], seed: int = 100) -> list[Tensor]:
    """Gradients: dense for a dense parameter, rows of a larger gradient for rows of a larger parameter."""
    grads = [on_device(tuple(p.shape), p.dtype, seed + index) for index, p in enumerate(parameters)]
    return [
        copies([p])[0].copy_(grad)
        if p.dim() > 1 and len(p) > 1 and p.stride(0) > p[0].numel() and p[0].is_contiguous()
        else grad
        for p, grad in zip(parameters, grads, strict=True)
    ]


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Clones with the same strides, in a storage with the same alignment."""
    result = []
    for tensor in tensors:
        storage = tensor.untyped_storage()
        copy = torch.empty(storage.nbytes() // tensor.element_size(), dtype=tensor.dtype, device=tensor.device)
        copy.untyped_storage().copy_(storage)
        result.append(copy.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()))
    return result


def locked(parameter: Tensor, lock: Lock | None) -> Tensor:
    """[like the parameter] bool: the elements of rate 0."""
    if lock is None:
        return torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    return (rate(lock, parameter) == 0).expand(parameter.shape)


def bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor, for a comparison in which NaN and the sign of 0 count."""
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])


def assert_updates_agree(
    actual: tuple[Sequence[Tensor], ...],
    expected: tuple[Sequence[Tensor], ...],
    before: Sequence[Tensor],
    locks: Sequence[Lock | None],
) -> None:
    """Check that two lists (parameters, states...) agree to a few roundings, and in each bit of locked elements."""
    for actual_tensors, expected_tensors in zip(actual, expected, strict=True):
        for index, (a, b) in enumerate(zip(actual_tensors, expected_tensors, strict=True)):
            is_locked = locked(a, locks[index])
            assert torch.equal(bits(a[is_locked]), bits(b[is_locked])), f"{index}: locked elements differ"
            moving = ~is_locked
            # Weight decay carries the rounding of the parameter into a state.
            eps = max(torch.finfo(tensors[index].dtype).eps for tensors in actual if tensors)
            size = b[moving].float().abs().max().item() if moving.any() else 0.0
            torch.testing.assert_close(
                a[moving].float(), b[moving].float(), rtol=4 * eps, atol=4 * eps * size, equal_nan=False
            )
    for index, (a, b) in enumerate(zip(actual[0], before, strict=True)):
        is_locked = locked(a, locks[index])
        assert torch.equal(bits(a[is_locked]), bits(b[is_locked])), f"{index}: a locked weight moved"
