"""One list of awkward shapes and one of awkward layouts, for every operation."""

from __future__ import annotations

import torch
from torch import Tensor

# (rows, units): 1, primes, just past a block, empty in either dimension.
SHAPES = [(1, 1), (1, 7), (3, 1), (5, 17), (13, 31), (33, 129), (65, 257), (0, 5), (4, 0)]

# Parameter shapes: (rows, columns, ...), up to the five dimensions of a 3-d convolution.
PARAMETER_SHAPES = [(1,), (7,), (129,), (0,), (1, 1), (5, 17), (33, 129), (0, 3), (3, 0), (7, 3, 5), (6, 4, 3, 3)]
PARAMETER_SHAPES += [(2, 3, 1, 2, 5)]

LAYOUTS = ["contiguous", "transposed", "strided", "expanded"]

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def lay_out(values: Tensor, layout: str) -> Tensor:
    """The same shape and dtype in another memory layout; `expanded` repeats the first slice with stride 0."""
    if layout == "contiguous" or values.dim() == 0:
        return values.contiguous()
    if layout == "transposed":
        order = list(range(values.dim()))[::-1]
        return values.permute(order).contiguous().permute(order)
    if layout == "strided":
        # A kernel that ignores the strides reads the NaN between the elements.
        wide = values.new_full((*values.shape[:-1], 2 * values.shape[-1] + 1), torch.nan)
        wide[..., 1::2] = values
        return wide[..., 1::2]
    return values[:1].expand(values.shape) if values.shape[0] else values
