"""What the three matmuls share: the order of the tiles, the pointers, the precision of float32, the launch."""

# mypy: allow-untyped-defs, disable-error-code="assignment"

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.dispatch import interpreted
from hat_kernels.gated_linear.blocks import MatmulBlock

GROUP_M = 8  # rows of tiles that are computed together, column by column: they find their operands in the L2 cache
INTERPRETED_PROGRAMS = 2  # the programs of a persistent kernel under the interpreter


@triton.jit
def tile_of(program, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """(row, column) of the tile of a program: GROUP_M rows of tiles at a time, column by column."""
    group = program // (GROUP_M * tiles_n)
    first = group * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    within = program - first * tiles_n
    return first + within % height, within // height


@triton.jit
def indices(tile, BLOCK: tl.constexpr):
    """[BLOCK] the indices of a tile, int64: their product with a stride may be beyond 32 bits."""
    return tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def matrix(pointer, row, column, stride_row, stride_column):
    """[rows, columns] pointers to the elements of a matrix."""
    return pointer + row[:, None] * stride_row + column[None, :] * stride_column


@triton.jit
def _halves(tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    return tl.split(tl.permute(tl.reshape(tile, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))


@triton.jit
def parts_of(tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr):
    """The columns of a tile in 1, 2 or 4 parts: an epilogue on the whole tile would need too many registers."""
    if PARTS == 1:
        parts = (tile,)
    else:
        left, right = _halves(tile, BLOCK_M, BLOCK_N)
        if PARTS == 2:
            parts = (left, right)
        else:
            tl.static_assert(PARTS == 4)
            a, b = _halves(left, BLOCK_M, BLOCK_N // 2)
            c, d = _halves(right, BLOCK_M, BLOCK_N // 2)
            parts = (a, b, c, d)
    return parts


def precision(dtype: torch.dtype) -> str:
    """The `input_precision` of `tl.dot`. float32 is multiplied as TF32 only if the user has allowed it."""
    if dtype != torch.float32:
        return "tf32"
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # from PyTorch 2.9 on: there `allow_tf32` may raise
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def kind(dtype: torch.dtype) -> str:
    """The arithmetic of a matmul, one of `hat_kernels.gated_linear.choice.KINDS`."""
    if dtype == torch.float32:
        return "tf32" if precision(dtype) == "tf32" else "fp32"
    return "bf16" if dtype == torch.bfloat16 else "fp16"


def programs(block: MatmulBlock, m: int, n: int, device: torch.device) -> tuple[int]:
    """The grid: one program for each tile; for a persistent block, only as many as run at once."""
    tiles = triton.cdiv(m, block.m) * triton.cdiv(n, block.n)
    return (min(tiles, _multiprocessors(device)) if block.persistent else tiles,)


def constants(block: MatmulBlock, operand: Tensor, depth: int) -> dict[str, Any]:
    """The arguments for the tiles and the launch of a product with an inner dimension of `depth`."""
    block_k = block.depth(operand.element_size())
    return {
        "PRECISION": precision(operand.dtype),
        # The interpreter of Triton 3.6 takes no tensor as the end of a range. A `while` loop would not be pipelined.
        "STEPS": triton.cdiv(depth, block_k) if interpreted() else None,
        "GROUP_M": GROUP_M,
        "BLOCK_M": block.m,
        "BLOCK_N": block.n,
        "BLOCK_K": block_k,
        "PARTS": block.parts,
        "num_warps": block.warps,
        "num_stages": block.stages_on(amd=torch.version.hip is not None),
        "enable_fp_fusion": True,
    }


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type == "cpu":
        return INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count
