"""What rows and planes share: one tile forward and backward, the unit vectors it needs, the column sums it leaves."""

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
    """A sample of an unknown task gets NaN gates, not another task's mask or stray memory."""
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
    """[BLOCK_M, BLOCK_N] gates of the task of each row."""
    first_sample = first_row // rows_per_sample
    rest = (first_row - first_sample * rows_per_sample).to(tl.int32)
    sample = first_sample + (rest + tl.arange(0, BLOCK_M)) // rows_per_sample  # one int64 division a tile
    task = tl.load(task_ptr + sample, mask=row < rows, other=0)
    at = gate_ptr + (task * units)[:, None] + unit[None, :]
    return tl.load(at, mask=inside & is_task(task, tasks)[:, None], other=float("nan"))


@triton.jit
def load_plane_gates(gate_ptr, task_ptr, outer, outer_per_sample, unit, inside_units, units, tasks):
    """[BLOCK_N] gates of the task of this sample."""
    task = tl.load(task_ptr + outer // outer_per_sample) + tl.zeros_like(
        unit
    )  # interpreted, masks mix with blocks only
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
    """(dz, what each element adds to the gradient of its gate)."""
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
    at,
    unit,
    inside,
    COMPENSATION: tl.constexpr,
    FINAL: tl.constexpr,
):
    """Store a chunk's sums at `at`; if FINAL they are whole, and dgate becomes the embedding's gradient."""
    if dbias_ptr is not None:
        tl.store(dbias_ptr + at, dbias.to(dbias_ptr.dtype.element_ty), mask=inside)
    if dgate_ptr is not None:
        if FINAL:
            embedding = tl.load(gate_ptr + unit, mask=inside, other=0.0)
            dgate = gate_gradient(dgate, embedding, tl.load(scale_ptr), s_max, COMPENSATION)
        tl.store(dgate_ptr + at, dgate, mask=inside)


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
    """Add the partial sums, always in the same order."""
    unit = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_units = unit < units
    dbias = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    dgate = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    first = 0
    while first < chunks:
        chunk = first + tl.arange(0, BLOCK_K)
        at = chunk[:, None] * units + unit[None, :]  # 1024 chunks at most: int32 up to two million units
        inside = (chunk < chunks)[:, None] & inside_units[None, :]
        if dbias_ptr is not None:
            dbias += tl.load(dbias_partial_ptr + at, mask=inside, other=0.0)
        if dgate_ptr is not None:
            dgate += tl.load(dgate_partial_ptr + at, mask=inside, other=0.0)
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
