"""Kernels that fold a gate into a weight: one pass over the weight forward, and one backward.

Forward multiplies row i of the weight by gate i. Backward multiplies row i of the gradient by gate i, and sums the
products of the gradient and the weight along each row: the sum is the gradient of gate i.

A long row is cut into tiles, and several programs, the chunks, share the tiles of a row. Each chunk stores a partial
sum, and a second launch adds the partial sums of a row, always in the same order. An example: a weight [512, 4608]. A
tile has 4 rows and 256 columns, so there are 128 groups of rows of 18 tiles each. 1024 / 128 = 8 chunks share the 18
tiles: chunk 0 has tiles 0, 8 and 16, chunk 7 has tiles 7 and 15. The partial sums are [8, 512].
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.device import GATE_FLOOR, gate_gradient, gate_value, precise_sigmoid
from hat_kernels.gated_activation.layout import block

OPTIONS = {"num_warps": 4}
TILE = 2048  # elements of a program, 16 for each thread; half of that backward, where two tensors are read
WIDEST = 256  # columns of a tile at most: the 128-bit loads of a warp in the smallest dtype
SINGLE_PASS_STEPS = 4  # up to so many tiles in a row, one program adds the whole row: no second launch
PROGRAMS = 1024  # about as many as run at once on an H200; the same on every device, so that sums are the same, too
NOT_SPECIALIZED = ["units", "row_vectors", "stride_weight", "stride_dfolded"]


@triton.jit(do_not_specialize=["units", "row_vectors", "stride_weight"])
def folded_weight_forward(
    weight_ptr,
    bias_ptr,
    embedding_ptr,
    scale_ptr,
    folded_ptr,
    folded_bias_ptr,
    units,
    row_vectors,
    stride_weight,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Multiply every row of a weight, and its bias, by the gate of the row; cast to the dtype of the result."""
    length = row_vectors * VECTOR  # tells the compiler that VECTOR divides the length: it can load VECTOR at once
    tiles_per_row = tl.maximum(tl.cdiv(length, BLOCK_N), 1)
    pid = tl.program_id(0)
    unit = (pid // tiles_per_row).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (pid % tiles_per_row) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_units = unit < units
    inside = inside_units[:, None] & (column < length)[None, :]
    a = precise_sigmoid(tl.load(scale_ptr) * tl.load(embedding_ptr + unit, mask=inside_units, other=0.0))
    a = tl.where(a < GATE_FLOOR, GATE_FLOOR, a)  # not 0: see `hat_kernels.folded_weight`
    weight_offsets = tl.multiple_of(unit * stride_weight, VECTOR)[:, None] + column[None, :]
    weight = tl.load(weight_ptr + weight_offsets, mask=inside).to(tl.float32)
    folded_offsets = tl.multiple_of(unit * length, VECTOR)[:, None] + column[None, :]
    tl.store(folded_ptr + folded_offsets, (weight * a[:, None]).to(folded_ptr.dtype.element_ty), mask=inside)
    if bias_ptr is not None:  # noqa: SIM102, the outer `if` is decided when the kernel is compiled
        if pid % tiles_per_row == 0:
            bias = tl.load(bias_ptr + unit, mask=inside_units).to(tl.float32)
            tl.store(folded_bias_ptr + unit, (bias * a).to(folded_bias_ptr.dtype.element_ty), mask=inside_units)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def folded_weight_backward(
    dfolded_ptr,
    dfolded_bias_ptr,
    weight_ptr,
    bias_ptr,
    embedding_ptr,
    scale_ptr,
    dweight_ptr,
    dbias_ptr,
    dembedding_ptr,
    units,
    row_vectors,
    stride_dfolded,
    stride_weight,
    s_max,
    COMPENSATION: tl.constexpr,
    FINAL: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The gradients of some rows, for the tiles of one chunk.

    With FINAL there is one chunk, and `dembedding_ptr` gets the gradient of the embedding. Otherwise `dembedding_ptr`
    gets the partial sums of the gradient of the gate.
    """
    length = row_vectors * VECTOR
    row_blocks = tl.cdiv(units, BLOCK_M)
    pid = tl.program_id(0)
    chunk, chunks = pid // row_blocks, tl.num_programs(0) // row_blocks
    unit = (pid % row_blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_units = unit < units
    embedding, scale = tl.load(embedding_ptr + unit, mask=inside_units, other=0.0), tl.load(scale_ptr)
    a = gate_value(embedding, scale)
    products = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = chunk * BLOCK_N
    while first < length:  # not range(): the interpreter of Triton 3.6 takes no tensor there
        column = first + tl.arange(0, BLOCK_N)
        inside = inside_units[:, None] & (column < length)[None, :]
        dfolded_offsets = tl.multiple_of(unit * stride_dfolded, VECTOR)[:, None] + column[None, :]
        dfolded = tl.load(dfolded_ptr + dfolded_offsets, mask=inside, other=0.0).to(tl.float32)
        if dweight_ptr is not None:
            dense_offsets = tl.multiple_of(unit * length, VECTOR)[:, None] + column[None, :]
            tl.store(dweight_ptr + dense_offsets, (dfolded * a[:, None]).to(dweight_ptr.dtype.element_ty), mask=inside)
        if dembedding_ptr is not None:
            weight_offsets = tl.multiple_of(unit * stride_weight, VECTOR)[:, None] + column[None, :]
            products += dfolded * tl.load(weight_ptr + weight_offsets, mask=inside, other=0.0).to(tl.float32)
        first += chunks * BLOCK_N
    da = tl.sum(products, 1)
    if dfolded_bias_ptr is not None:  # noqa: SIM102
        if chunk == 0:
            dfolded_bias = tl.load(dfolded_bias_ptr + unit, mask=inside_units, other=0.0).to(tl.float32)
            if dbias_ptr is not None:
                tl.store(dbias_ptr + unit, (dfolded_bias * a).to(dbias_ptr.dtype.element_ty), mask=inside_units)
            da += dfolded_bias * tl.load(bias_ptr + unit, mask=inside_units, other=0.0).to(tl.float32)
    if dembedding_ptr is not None:
        if FINAL:
            da = gate_gradient(da, embedding, scale, s_max, COMPENSATION)
        tl.store(dembedding_ptr + chunk * units + unit, da, mask=inside_units)


def blocks(units: int, length: int, elements: int = TILE) -> tuple[int, int]:
    """(BLOCK_M, BLOCK_N), the size of a tile; the shorter the rows, the more rows fit."""
    block_n = block(length, WIDEST)
    return min(triton.next_power_of_2(units), elements // block_n), block_n


def backward_blocks(units: int, length: int, sums: bool) -> tuple[int, int, int]:
    """(BLOCK_M, BLOCK_N, chunks) of the backward kernel; `sums`: whether the gradient of the embedding is needed."""
    block_m, block_n = blocks(units, length, TILE // 2)
    steps = max(1, triton.cdiv(length, block_n))
    if not sums:
        return block_m, block_n, steps
    if steps <= SINGLE_PASS_STEPS:
        return block_m, block_n, 1
    return block_m, block_n, min(steps, triton.cdiv(PROGRAMS, triton.cdiv(units, block_m)))
