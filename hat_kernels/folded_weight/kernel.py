"""A gate folded into weights, one pass each way: every row of a weight is multiplied by its gate, or dotted with W."""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.device import GATE_FLOOR, gate_gradient, gate_value, precise_sigmoid
from hat_kernels.gated_activation.layout import block

OPTIONS = {"num_warps": 4}
TILE = 2048  # elements a program: 16 a thread; half of it backward, for two tensors (one spilled at more)
WIDEST = 256  # elements of a row: a warp's 128-bit loads of the smallest dtype
SINGLE_PASS_STEPS = 4  # tiles: up to here one program adds a row's whole sum, which saves the launch that adds parts
PROGRAMS = 1024  # about what an H200 holds at once; fixed, so that sums do not depend on the device
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
    length = row_vectors * VECTOR  # a multiple that the compiler sees, for loads of VECTOR elements under a mask
    tiles_per_row = tl.maximum(tl.cdiv(length, BLOCK_N), 1)
    pid = tl.program_id(0)
    unit = (pid // tiles_per_row).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (pid % tiles_per_row) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_unit = unit < units
    inside = is_unit[:, None] & (column < length)[None, :]
    a = precise_sigmoid(tl.load(scale_ptr) * tl.load(embedding_ptr + unit, mask=is_unit, other=0.0))
    a = tl.where(a < GATE_FLOOR, GATE_FLOOR, a)  # not 0: see `hat_kernels.folded_weight`
    at = tl.multiple_of(unit * stride_weight, VECTOR)[:, None] + column[None, :]
    weight = tl.load(weight_ptr + at, mask=inside).to(tl.float32)
    at = tl.multiple_of(unit * length, VECTOR)[:, None] + column[None, :]
    tl.store(folded_ptr + at, (weight * a[:, None]).to(folded_ptr.dtype.element_ty), mask=inside)
    if bias_ptr is not None:  # noqa: SIM102, one `if` is known when this is compiled, the other is not
        if pid % tiles_per_row == 0:
            bias = tl.load(bias_ptr + unit, mask=is_unit).to(tl.float32)
            tl.store(folded_bias_ptr + unit, (bias * a).to(folded_bias_ptr.dtype.element_ty), mask=is_unit)


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
    """A chunk of every chunks-th tile of some rows; if FINAL it is all of them, else dembedding gets partial sums."""
    length = row_vectors * VECTOR
    row_blocks = tl.cdiv(units, BLOCK_M)
    pid = tl.program_id(0)
    chunk, chunks = pid // row_blocks, tl.num_programs(0) // row_blocks
    unit = (pid % row_blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_unit = unit < units
    embedding, scale = tl.load(embedding_ptr + unit, mask=is_unit, other=0.0), tl.load(scale_ptr)
    a = gate_value(embedding, scale)
    products = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = chunk * BLOCK_N
    while first < length:  # not range(): the interpreter of Triton 3.6 takes no tensors there
        column = first + tl.arange(0, BLOCK_N)
        inside = is_unit[:, None] & (column < length)[None, :]
        at = tl.multiple_of(unit * stride_dfolded, VECTOR)[:, None] + column[None, :]
        dfolded = tl.load(dfolded_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if dweight_ptr is not None:
            at = tl.multiple_of(unit * length, VECTOR)[:, None] + column[None, :]
            tl.store(dweight_ptr + at, (dfolded * a[:, None]).to(dweight_ptr.dtype.element_ty), mask=inside)
        if dembedding_ptr is not None:
            at = tl.multiple_of(unit * stride_weight, VECTOR)[:, None] + column[None, :]
            products += dfolded * tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
        first += chunks * BLOCK_N
    da = tl.sum(products, 1)
    if dfolded_bias_ptr is not None:  # noqa: SIM102
        if chunk == 0:
            dfolded_bias = tl.load(dfolded_bias_ptr + unit, mask=is_unit, other=0.0).to(tl.float32)
            if dbias_ptr is not None:
                tl.store(dbias_ptr + unit, (dfolded_bias * a).to(dbias_ptr.dtype.element_ty), mask=is_unit)
            da += dfolded_bias * tl.load(bias_ptr + unit, mask=is_unit, other=0.0).to(tl.float32)
    if dembedding_ptr is not None:
        if FINAL:
            da = gate_gradient(da, embedding, scale, s_max, COMPENSATION)
        tl.store(dembedding_ptr + chunk * units + unit, da, mask=is_unit)


def blocks(units: int, length: int, elements: int = TILE) -> tuple[int, int]:
    """(BLOCK_M, BLOCK_N); short rows leave room for more of them."""
    block_n = block(length, WIDEST)
    return min(triton.next_power_of_2(units), elements // block_n), block_n


def backward_blocks(units: int, length: int, sums: bool) -> tuple[int, int, int]:
    """(BLOCK_M, BLOCK_N, chunks)."""
    block_m, block_n = blocks(units, length, TILE // 2)
    steps = max(1, triton.cdiv(length, block_n))
    if not sums:
        return block_m, block_n, steps
    if steps <= SINGLE_PASS_STEPS:
        return block_m, block_n, 1
    return block_m, block_n, min(steps, triton.cdiv(PROGRAMS, triton.cdiv(units, block_m)))
