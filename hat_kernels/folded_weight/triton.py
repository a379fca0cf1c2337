"""A gate folded into weights, one pass each way: every row of a weight is multiplied by its gate, or dotted with W."""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.configuration import Configuration
from hat_kernels.device import GATE_FLOOR, gate_gradient, gate_value, precise_sigmoid
from hat_kernels.gated_activation.layout import Tiled, allocate, block, memory_order, tiled, vector
from hat_kernels.gated_activation.tile import SUMS, SUMS_OPTIONS, gated_activation_sums

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


def folded_weight(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """See `hat_kernels.folded_weight`."""
    folded, folded_bias = _folded_weight(weight, bias, embedding, scale, s_max, compensation, dtype)
    return folded, None if bias is None else folded_bias


@torch.library.custom_op("hat_kernels::folded_weight", mutates_args=())
def _folded_weight(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The second is empty without a bias."""
    order = _units_first(weight)
    folded, folded_bias = allocate(weight, order, dtype), _vector(weight, bias is not None, dtype)
    if weight.shape[0]:
        view = tiled(weight, order, 0)
        block_m, block_n = blocks(view.units, view.inner)
        width = vector(view.inner, view.stride_units)
        tiles_per_row = max(1, triton.cdiv(view.inner, block_n))
        with torch.cuda.device_of(weight):
            folded_weight_forward[(triton.cdiv(view.units, block_m) * tiles_per_row,)](
                weight_ptr=view.tensor,
                bias_ptr=None if bias is None else bias.contiguous(),
                embedding_ptr=embedding.contiguous(),
                scale_ptr=scale,
                folded_ptr=folded,
                folded_bias_ptr=None if bias is None else folded_bias,
                units=view.units,
                row_vectors=view.inner // width,
                stride_weight=view.stride_units,
                VECTOR=width,
                BLOCK_M=block_m,
                BLOCK_N=block_n,
                **OPTIONS,
                enable_fp_fusion=True,
            )
    return folded, folded_bias


@torch.library.custom_op("hat_kernels::folded_weight_backward", mutates_args=())
def _folded_weight_backward(
    dfolded: Tensor,
    dfolded_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    needs_weight: bool,
    needs_bias: bool,
    needs_embedding: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dweight, dbias, dembedding), each empty unless needed."""
    order = _units_first(weight)
    results = _results(weight, bias, order, needs_weight, needs_bias, needs_embedding)
    if weight.shape[0]:
        dweight, dbias, dembedding = (
            result if needed else None
            for result, needed in zip(results, (needs_weight, needs_bias, needs_embedding), strict=True)
        )
        _launch_backward(
            tiled(dfolded, order, 0),
            dfolded_bias if bias is not None else None,
            tiled(weight, order, 0),
            bias,
            embedding.contiguous(),
            scale,
            s_max,
            compensation,
            dweight,
            dbias,
            dembedding,
        )
    return results


def _launch_backward(
    dfolded: Tiled,
    dfolded_bias: Tensor | None,
    weight: Tiled,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    dweight: Tensor | None,
    dbias: Tensor | None,
    dembedding: Tensor | None,
) -> None:
    block_m, block_n, chunks = backward_blocks(weight.units, weight.inner, dembedding is not None)
    width = vector(weight.inner, weight.stride_units, dfolded.stride_units)
    sums = dembedding
    if dembedding is not None and chunks > 1:
        sums = torch.empty((chunks, weight.units), dtype=torch.float32, device=embedding.device)
    with torch.cuda.device_of(embedding):
        folded_weight_backward[(chunks * triton.cdiv(weight.units, block_m),)](
            dfolded_ptr=dfolded.tensor,
            dfolded_bias_ptr=None if dfolded_bias is None else dfolded_bias.contiguous(),
            weight_ptr=weight.tensor,
            bias_ptr=None if bias is None else bias.contiguous(),
            embedding_ptr=embedding,
            scale_ptr=scale,
            dweight_ptr=dweight,
            dbias_ptr=dbias,
            dembedding_ptr=sums,
            units=weight.units,
            row_vectors=weight.inner // width,
            stride_dfolded=dfolded.stride_units,
            stride_weight=weight.stride_units,
            s_max=s_max,
            COMPENSATION=compensation,
            FINAL=chunks == 1,
            VECTOR=width,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            **OPTIONS,
            enable_fp_fusion=True,
        )
        if sums is not dembedding:
            gated_activation_sums[(triton.cdiv(weight.units, SUMS["BLOCK_N"]),)](
                dbias_partial_ptr=None,
                dgate_partial_ptr=sums,
                dbias_ptr=None,
                dgate_ptr=dembedding,
                gate_ptr=embedding,
                scale_ptr=scale,
                chunks=chunks,
                units=weight.units,
                s_max=s_max,
                COMPENSATION=compensation,
                **SUMS,
                **SUMS_OPTIONS,
                enable_fp_fusion=True,
            )


def _units_first(weight: Tensor) -> list[int]:
    """The dimensions in memory, but the units before all: every unit is a row."""
    return [0, *(dim for dim in memory_order(weight, False) if dim)]


def _vector(weight: Tensor, filled: bool, dtype: torch.dtype) -> Tensor:
    return torch.empty(weight.shape[0] if filled else 0, dtype=dtype, device=weight.device)


def _results(
    weight: Tensor, bias: Tensor | None, order: list[int], needs_weight: bool, needs_bias: bool, needs_embedding: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dweight = allocate(weight, order) if needs_weight else _vector(weight, False, weight.dtype)
    dbias = _vector(weight, bias is not None and needs_bias, weight.dtype if bias is None else bias.dtype)
    return dweight, dbias, _vector(weight, needs_embedding, torch.float32)


@_folded_weight.register_fake
def _(
    weight: Tensor,
    bias: Tensor | None,
    embedding: Tensor,
    scale: Tensor,
    s_max: float,
    compensation: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return allocate(weight, _units_first(weight), dtype), _vector(weight, bias is not None, dtype)


@_folded_weight_backward.register_fake
def _(
    dfolded: Tensor, dfolded_bias: Tensor | None, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _results(weight, bias, _units_first(weight), *rest[-3:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    weight, bias, embedding, scale, ctx.s_max, ctx.compensation, _ = inputs
    ctx.save_for_backward(weight, bias, embedding, scale)


def _backward(ctx: Any, dfolded: Tensor, dfolded_bias: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    saved = ctx.saved_tensors
    results = _folded_weight_backward(dfolded, dfolded_bias, *saved, ctx.s_max, ctx.compensation, *needs)
    return *(result if needed else None for result, needed in zip(results, needs, strict=True)), *[None] * 4


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("folded_weight: differentiable once, got a second backward")


_folded_weight.register_autograd(_backward, setup_context=_save)
_folded_weight_backward.register_autograd(_refuse)


def _forward_configuration(name: str, units: int, length: int, weight: str, folded: str, bias: bool) -> Configuration:
    block_m, _ = blocks(units, length)
    pointers = {"weight_ptr": weight, "embedding_ptr": "fp32", "scale_ptr": "fp32", "folded_ptr": folded}
    pointers |= {"bias_ptr": weight, "folded_bias_ptr": folded} if bias else {}
    constants = {} if bias else {"bias_ptr": None, "folded_bias_ptr": None}
    return _configuration(f"folded_weight_forward-{name}", folded_weight_forward, pointers, constants, length, block_m)


def _backward_configuration(
    name: str, units: int, length: int, weight: str, folded: str, bias: bool, compensation: str = "published"
) -> Configuration:
    block_m, _, chunks = backward_blocks(units, length, True)
    pointers = {"dfolded_ptr": folded, "dweight_ptr": weight, "weight_ptr": weight}
    pointers |= dict.fromkeys(("embedding_ptr", "scale_ptr", "dembedding_ptr"), "fp32")
    given = {"dfolded_bias_ptr": folded, "bias_ptr": weight, "dbias_ptr": weight}
    pointers |= given if bias else {}
    constants = {} if bias else dict.fromkeys(given)
    constants |= {"COMPENSATION": compensation, "FINAL": chunks == 1}
    name = f"folded_weight_backward-{name}-{'one' if chunks == 1 else 'two'}-{compensation}"
    return _configuration(name, folded_weight_backward, pointers, constants, length, block_m)


def _configuration(
    name: str, kernel: Any, pointers: dict[str, str], constants: dict[str, Any], length: int, block_m: int
) -> Configuration:
    width, block_n = vector(length), block(length, WIDEST)
    signature = {pointer: f"*{kind}" for pointer, kind in pointers.items()}
    signature |= {name: "i32" for name in NOT_SPECIALIZED if name in kernel.arg_names}
    signature |= {"s_max": "fp32"} if "s_max" in kernel.arg_names else {}
    return Configuration(
        name=name,
        kernel=kernel,
        signature={argument: signature[argument] for argument in kernel.arg_names if argument in signature},
        constants={**constants, "VECTOR": width, "BLOCK_M": block_m, "BLOCK_N": block_n},
        aligned=tuple(pointers),
        options=OPTIONS,
        vector_bits=128 if width == 8 else 0,
        vector_bits_of_64_lanes=128 if block_m * block_n == TILE or pointers["weight_ptr"] == "fp32" else 64,
    )


# Layers of benchmarks: 4096 x 4096, convolutions of 64 and of 512 channels, 3 x 3, and a first one of 3 channels.
CONFIGURATIONS = [
    _forward_configuration("fp32-bf16-linear", 4096, 4096, "fp32", "bf16", True),
    _forward_configuration("fp32-fp32-conv", 64, 576, "fp32", "fp32", False),
    _forward_configuration("bf16-bf16-conv", 512, 4608, "bf16", "bf16", True),
    _forward_configuration("fp32-bf16-first", 64, 27, "fp32", "bf16", True),
    _backward_configuration("fp32-bf16-linear", 4096, 4096, "fp32", "bf16", True),
    _backward_configuration("fp32-fp32-conv", 64, 576, "fp32", "fp32", False, "exact"),
    _backward_configuration("bf16-bf16-conv", 512, 4608, "bf16", "bf16", True),
    _backward_configuration("fp32-bf16-conv", 512, 4608, "fp32", "bf16", True, "none"),
    _backward_configuration("fp32-bf16-first", 64, 27, "fp32", "bf16", True),
]
