"""Kernels for planes of one unit: x as [B, N, L], L innermost, as a batch of images (B, C, H, W); see `layout.py`."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hat_kernels.device import dropout_keep
from hat_kernels.gated_activation.epilogue import MAX_CHUNKS, PROGRAMS, TILE_BYTES, Epilogue, Sums
from hat_kernels.gated_activation.layout import Tiled, block, vector
from hat_kernels.gated_activation.tile import (
    backward_tile,
    forward_tile,
    load_bias,
    load_gate,
    load_plane_gates,
    store_sums,
)

OPTIONS = {"num_warps": 4}
SEGMENT_BYTES = 512  # bytes of a plane in a tile: the 128-bit loads of a warp
NOT_SPECIALIZED = ["outers", "units", "inner_vectors", "tasks", "threshold"]
NOT_SPECIALIZED += ["stride_dyb", "stride_dyn", "stride_xb", "stride_xn"]
SINGLE_PASS_STEPS = 4  # up to so many tiles, one program adds the whole sum of a unit: no second launch


@triton.jit(do_not_specialize=["units", "inner_vectors", "tasks", "stride_xb", "stride_xn", "threshold"])
def gated_activation_planes_forward(
    x_ptr,
    y_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    units,
    inner_vectors,
    tasks,
    outer_per_sample,
    stride_xb,
    stride_xn,
    threshold,
    keep_scale,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Compute one tile of y."""
    DROPOUT: tl.constexpr = seed_ptr is not None
    size = inner_vectors * VECTOR  # tells the compiler that VECTOR divides this: it can load VECTOR at once
    unit_blocks, inner_blocks = tl.cdiv(units, BLOCK_N), tl.cdiv(size, BLOCK_L)
    pid = tl.program_id(0)
    first_inner = (pid % inner_blocks) * BLOCK_L
    pid = pid // inner_blocks
    outer = (pid // unit_blocks).to(tl.int64)
    unit = (pid % unit_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = first_inner + tl.arange(0, BLOCK_L)
    inside_units = unit < units
    inside = inside_units[:, None] & (inner < size)[None, :]
    x_offsets = tl.multiple_of(outer * stride_xb + unit.to(tl.int64) * stride_xn, VECTOR)[:, None] + inner[None, :]
    z = tl.load(x_ptr + x_offsets, mask=inside).to(tl.float32)
    if bias_ptr is not None:
        z += load_bias(bias_ptr, unit, inside_units)[:, None]
    gate = 1.0
    if GATE == "task":
        gate = load_plane_gates(gate_ptr, task_ptr, outer, outer_per_sample, unit, inside_units, units, tasks)[:, None]
    elif GATE != "none":
        gate = load_gate(gate_ptr, scale_ptr, unit, inside_units, GATE)[:, None]
    row = outer * units + unit
    keep = True
    if DROPOUT:
        keep = dropout_keep(
            tl.load(seed_ptr), row, first_inner // 4, tl.cdiv(size, 4), threshold, BLOCK_N, BLOCK_L // 4
        )
    y = forward_tile(z, gate, keep, keep_scale, ACTIVATION, GATE, DROPOUT)
    tl.store(y_ptr + (row * size)[:, None] + inner[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def gated_activation_planes_backward(
    dy_ptr,
    x_ptr,
    dx_ptr,
    dbias_ptr,
    dgate_ptr,
    bias_ptr,
    gate_ptr,
    scale_ptr,
    task_ptr,
    seed_ptr,
    outers,
    units,
    inner_vectors,
    tasks,
    outer_per_sample,
    stride_dyb,
    stride_dyn,
    stride_xb,
    stride_xn,
    threshold,
    keep_scale,
    s_max,
    ACTIVATION: tl.constexpr,
    GATE: tl.constexpr,
    COMPENSATION: tl.constexpr,
    FINAL: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Compute dx for the tiles of one chunk, and store the sums of the chunk for each unit."""
    DROPOUT: tl.constexpr = seed_ptr is not None
    size = inner_vectors * VECTOR
    unit_blocks, inner_blocks = tl.cdiv(units, BLOCK_N), tl.cdiv(size, BLOCK_L)
    pid = tl.program_id(0)
    chunk, chunks = pid // unit_blocks, tl.num_programs(0) // unit_blocks
    unit = (pid % unit_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_units = unit < units
    if bias_ptr is not None:
        bias = load_bias(bias_ptr, unit, inside_units)[:, None]
    gate = 1.0
    if (GATE == "embedding") | (GATE == "mask"):
        gate = load_gate(gate_ptr, scale_ptr, unit, inside_units, GATE)[:, None]
    dbias = tl.zeros((BLOCK_N, BLOCK_L), tl.float32)
    dgate = tl.zeros((BLOCK_N, BLOCK_L), tl.float32)
    step = chunk.to(tl.int64)
    while step < outers * inner_blocks:  # not range(): the interpreter of Triton 3.6 takes no tensor there
        outer = step // inner_blocks
        first_inner = (step - outer * inner_blocks).to(tl.int32) * BLOCK_L
        inner = first_inner + tl.arange(0, BLOCK_L)
        inside = inside_units[:, None] & (inner < size)[None, :]
        dy_offsets = (
            tl.multiple_of(outer * stride_dyb + unit.to(tl.int64) * stride_dyn, VECTOR)[:, None] + inner[None, :]
        )
        dy = tl.load(dy_ptr + dy_offsets, mask=inside, other=0.0).to(tl.float32)
        z = dy
        if x_ptr is not None:
            x_offsets = (
                tl.multiple_of(outer * stride_xb + unit.to(tl.int64) * stride_xn, VECTOR)[:, None] + inner[None, :]
            )
            z = tl.load(x_ptr + x_offsets, mask=inside, other=0.0).to(tl.float32)
            if bias_ptr is not None:
                z += bias
        row = outer * units + unit
        keep = True
        if DROPOUT:
            keep = dropout_keep(
                tl.load(seed_ptr), row, first_inner // 4, tl.cdiv(size, 4), threshold, BLOCK_N, BLOCK_L // 4
            )
        tile_gate = gate
        if GATE == "task":
            tile_gate = load_plane_gates(gate_ptr, task_ptr, outer, outer_per_sample, unit, inside_units, units, tasks)[
                :, None
            ]
        dz, dgate_tile = backward_tile(dy, z, tile_gate, keep, keep_scale, ACTIVATION, GATE, DROPOUT)
        if dx_ptr is not None:
            dx_ptrs = dx_ptr + (row * size)[:, None] + inner[None, :]
            tl.store(dx_ptrs, dz.to(dx_ptr.dtype.element_ty), mask=inside)
        if dbias_ptr is not None:
            dbias += tl.where(inside, dz, 0.0)
        if dgate_ptr is not None:
            dgate += tl.where(inside, dgate_tile, 0.0)
        step += chunks
    dbias, dgate, sum_offsets = tl.sum(dbias, 1), tl.sum(dgate, 1), chunk * units + unit
    store_sums(
        dbias_ptr,
        dgate_ptr,
        dbias,
        dgate,
        gate_ptr,
        scale_ptr,
        s_max,
        sum_offsets,
        unit,
        inside_units,
        COMPENSATION,
        FINAL,
    )


def blocks(units: int, inner: int, elements: int, element_size: int) -> tuple[int, int]:
    """(BLOCK_N, BLOCK_L) of a tile of at most `elements`; with few units, a tile takes longer parts of their planes."""
    most_units = triton.next_power_of_2(units)
    block_l = block(inner, max(SEGMENT_BYTES // element_size, elements // most_units))
    return min(most_units, elements // block_l), block_l


def forward_blocks(units: int, inner: int, element_size: int) -> tuple[int, int]:
    """(BLOCK_N, BLOCK_L) of the forward kernel."""
    return blocks(units, inner, TILE_BYTES // element_size, element_size)


def forward(x: Tiled, y: Tensor, epilogue: Epilogue, samples: int) -> None:
    """Launch the kernel that fills `y`; `samples` is the number of samples if each has a task, else 1."""
    block_n, block_l = forward_blocks(x.units, x.inner, x.tensor.element_size())
    width = vector(x.inner, x.stride_outer, x.stride_units)
    grid = (x.outer * triton.cdiv(x.units, block_n) * triton.cdiv(x.inner, block_l),)
    with torch.cuda.device_of(y):
        gated_activation_planes_forward[grid](
            x_ptr=x.tensor,
            y_ptr=y,
            units=x.units,
            inner_vectors=x.inner // width,
            outer_per_sample=x.outer // samples,
            stride_xb=x.stride_outer,
            stride_xn=x.stride_units,
            VECTOR=width,
            BLOCK_N=block_n,
            BLOCK_L=block_l,
            **epilogue.values(),
            **OPTIONS,
            enable_fp_fusion=True,
        )


def backward_blocks(outer: int, units: int, inner: int, element_size: int, sums: bool) -> tuple[int, int, int]:
    """(BLOCK_N, BLOCK_L, chunks) of the backward kernel; `sums`: whether sums over rows and planes are needed."""
    block_n, block_l = blocks(units, inner, TILE_BYTES // 2 // element_size, element_size)
    steps = outer * triton.cdiv(inner, block_l)
    if not sums:
        return block_n, block_l, steps
    if steps <= SINGLE_PASS_STEPS:
        return block_n, block_l, 1
    return block_n, block_l, min(steps, MAX_CHUNKS, max(1, PROGRAMS // triton.cdiv(units, block_n)))


def backward(
    dy: Tiled,
    x: Tiled | None,
    dx: Tensor | None,
    dbias: Tensor | None,
    dgate: Tensor | None,
    epilogue: Epilogue,
    samples: int,
) -> Sums:
    """Launch the kernel, and return the column sums."""
    wants_sums = dbias is not None or dgate is not None
    block_n, block_l, chunks = backward_blocks(dy.outer, dy.units, dy.inner, dy.tensor.element_size(), wants_sums)
    sums = Sums.of(dbias, dgate, chunks)
    stride_xb, stride_xn = (x.stride_outer, x.stride_units) if x else (0, 0)
    width = vector(dy.inner, dy.stride_outer, dy.stride_units, stride_xb, stride_xn)
    grid = (chunks * triton.cdiv(dy.units, block_n),)
    with torch.cuda.device_of(dy.tensor):
        gated_activation_planes_backward[grid](
            dy_ptr=dy.tensor,
            x_ptr=x.tensor if x else None,
            dx_ptr=dx,
            dbias_ptr=sums.dbias_partial,
            dgate_ptr=sums.dgate_partial,
            outers=dy.outer,
            units=dy.units,
            inner_vectors=dy.inner // width,
            outer_per_sample=dy.outer // samples,
            stride_dyb=dy.stride_outer,
            stride_dyn=dy.stride_units,
            stride_xb=stride_xb,
            stride_xn=stride_xn,
            s_max=epilogue.gate.s_max,
            COMPENSATION=epilogue.gate.compensation,
            FINAL=chunks == 1,
            VECTOR=width,
            BLOCK_N=block_n,
            BLOCK_L=block_l,
            **epilogue.values(),
            **OPTIONS,
            enable_fp_fusion=True,
        )
    return sums
