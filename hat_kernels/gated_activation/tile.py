"""What the kernels for rows and for planes share: the computation of a tile, its gates, and sums over columns.

The gradients of the bias and of the gate are sums over all rows. Programs run in any order, and a sum of floating-point
numbers depends on the order. So the sums have two stages. The programs of a block of columns are numbered 0 to
chunks - 1. Chunk c adds the tiles c, c + chunks, c + 2 chunks, ... and stores one partial sum for each column. Then
`gated_activation_sums` adds the partial sums of each column, always in the same order.

An example: x is [16384, 4096] in float32. A tile has 8 rows and 128 columns, so there are 2048 tiles under each other.
128 chunks share them: chunk 0 adds the tiles 0, 128, 256, ..., 1920, which are 16 tiles or 128 rows. The partial sums
are [128, 4096]. If there is only one chunk (FINAL), its sums are the results, and no second launch is needed.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.device import activate, activate_backward, gate_gradient, gate_value

SUMS = {"BLOCK_K": 64, "BLOCK_N": 32}
SUMS_OPTIONS = {"num_warps": 4}


@triton.jit
def load_bias(bias_ptr, unit, inside):
    return tl.load(bias_ptr + unit, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_gate(gate_ptr, scale_ptr, unit, inside, GATE: tl.constexpr):
    """The gate of each unit, from its embedding or its mask."""
    value = tl.load(gate_ptr + unit, mask=inside, other=0.0)
    if GATE == "embedding":
        value = gate_value(value, tl.load(scale_ptr))
    return value


@triton.jit
def is_task(task, tasks):
    """Whether a task id is in the range. Other ids get gates of NaN, not the mask of another task or foreign memory."""
    return (task >= 0) & (task < tasks)


@triton.jit
def load_row_gates(
    gate_ptr,
    task_ptr,
    first_row,
    row,
    rows,
    unit,
    inside,
    units,
    tasks,
    rows_per_sample,
    BLOCK_M: tl.constexpr,
):
    """[BLOCK_M, BLOCK_N] the gates of the task of each row."""
    first_sample = first_row // rows_per_sample
    row_in_sample = (first_row - first_sample * rows_per_sample).to(tl.int32)
    # Only the first row of the tile needs a division in 64 bits.
    sample = first_sample + (row_in_sample + tl.arange(0, BLOCK_M)) // rows_per_sample
    task = tl.load(task_ptr + sample, mask=row < rows, other=0)
    gate_ptrs = gate_ptr + (task * units)[:, None] + unit[None, :]
    return tl.load(gate_ptrs, mask=inside & is_task(task, tasks)[:, None], other=float("nan"))


@triton.jit
def load_plane_gates(gate_ptr, task_ptr, outer, outer_per_sample, unit, inside_units, units, tasks):
    """[BLOCK_N] the gates of the task of a sample."""
    # A block of equal ids: the interpreter does not combine a scalar mask with a block.
    task = tl.load(task_ptr + outer // outer_per_sample) + tl.zeros_like(unit)
    return tl.load(gate_ptr + task * units + unit, mask=inside_units & is_task(task, tasks), other=float("nan"))


@triton.jit
def gated(h, gate, GATE: tl.constexpr):
    if GATE == "none":
        y = h
    elif GATE == "embedding":
        y = h * gate
    else:
        y = tl.where(gate == 0, 0.0, h * gate)  # 0 * inf is NaN
    return y


@triton.jit
def dropped(h, keep, keep_scale, DROPOUT: tl.constexpr):
    if DROPOUT:
        h = tl.where(keep, h * keep_scale, 0.0)
    return h


@triton.jit
def forward_tile(z, gate, keep, keep_scale, ACTIVATION: tl.constexpr, GATE: tl.constexpr, DROPOUT: tl.constexpr):
    return gated(dropped(activate(z, ACTIVATION), keep, keep_scale, DROPOUT), gate, GATE)


@triton.jit
def backward_tile(dy, z, gate, keep, keep_scale, ACTIVATION: tl.constexpr, GATE: tl.constexpr, DROPOUT: tl.constexpr):
    """(dz, dgate): the gradient of z, and the share of each element in the gradient of its gate."""
    dgate = dy * dropped(activate(z, ACTIVATION), keep, keep_scale, DROPOUT)
    dz = activate_backward(z, dropped(gated(dy, gate, GATE), keep, keep_scale, DROPOUT), ACTIVATION)
    if (GATE == "mask") | (GATE == "task"):
        dz = tl.where(gate == 0, 0.0, dz)
    return dz, dgate


@triton.jit
def store_sums(
    dbias_ptr,
    dgate_ptr,
    dbias,
    dgate,
    gate_ptr,
    scale_ptr,
    s_max,
    offsets,
    unit,
    inside,
    COMPENSATION: tl.constexpr,
    FINAL: tl.constexpr,
):
    """Store the sums of a chunk. With FINAL they are complete, and dgate becomes the gradient of the embedding."""
    if dbias_ptr is not None:
        tl.store(dbias_ptr + offsets, dbias.to(dbias_ptr.dtype.element_ty), mask=inside)
    if dgate_ptr is not None:
        if FINAL:
            embedding = tl.load(gate_ptr + unit, mask=inside, other=0.0)
            dgate = gate_gradient(dgate, embedding, tl.load(scale_ptr), s_max, COMPENSATION)
        tl.store(dgate_ptr + offsets, dgate, mask=inside)


@triton.jit(do_not_specialize=["chunks", "units"])
def gated_activation_sums(
    dbias_partial_ptr,
    dgate_partial_ptr,
    dbias_ptr,
    dgate_ptr,
    gate_ptr,
    scale_ptr,
    chunks,
    units,
    s_max,
    COMPENSATION: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add the partial sums of each column, always in the same order."""
    unit = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_units = unit < units
    dbias = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    dgate = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    first = 0
    while first < chunks:
        chunk = first + tl.arange(0, BLOCK_K)
        # 32 bits are enough for 1024 chunks, the most there are, and two million units.
        offsets = chunk[:, None] * units + unit[None, :]
        inside = (chunk < chunks)[:, None] & inside_units[None, :]
        if dbias_ptr is not None:
            dbias += tl.load(dbias_partial_ptr + offsets, mask=inside, other=0.0)
        if dgate_ptr is not None:
            dgate += tl.load(dgate_partial_ptr + offsets, mask=inside, other=0.0)
        first += BLOCK_K
    store_sums(
        dbias_ptr,
        dgate_ptr,
        tl.sum(dbias, 0),
        tl.sum(dgate, 0),
        gate_ptr,
        scale_ptr,
        s_max,
        unit,
        unit,
        inside_units,
        COMPENSATION,
        True,
    )
