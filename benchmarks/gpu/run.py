"""Measure all cases within a given time. An error is stored in the row of its case, so that the other cases go on."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import converted, exported, linear, mixed, steps, whole
from benchmarks.gpu.case import Case
from benchmarks.gpu.ceilings import DTYPES, Ceilings
from benchmarks.gpu.device import Device
from benchmarks.gpu.folding import FOLDING
from benchmarks.gpu.operations import OPERATIONS
from benchmarks.gpu.timing import Timed, measure, short, stream, summary
from benchmarks.gpu.updates import embeddings, updates
from hat_kernels.gated_linear import choice

Row = dict[str, Any]
# Every number is a share of the time that is left when the part begins.
STEPS = 0.35  # steps of the paper's networks
CONVERTED = 0.35  # steps of converted networks
MIXED = 0.1  # answers for batches of many tasks
EXPORTED = 0.1  # exported networks
WHOLE = 0.35  # whole runs
COMPILING = 0.5  # single operations with variants of torch.compile; later operations leave these variants out


def measure_all(device: Device, ceilings: Ceilings, seconds: float, rounds: int) -> Iterator[Row]:
    """Measure whole steps, whole runs, then single operations. Of the operations, the largest sizes come first."""
    deadline = time.monotonic() + seconds
    on = stream(device)
    parts = (
        ("step", STEPS, steps.rows),
        ("converted", CONVERTED, converted.rows),
        ("mixed", MIXED, mixed.rows),
        ("exported", EXPORTED, exported.rows),
    )
    for part, share, rows in parts:
        start = time.monotonic()
        try:
            yield from rows(device, on, rounds, start + share * (deadline - start))
        except Exception as error:
            yield {"part": part, "operation": "step", "variant": "all", "error": short(error)}
    yield from whole.rows(device, time.monotonic() + WHOLE * (deadline - time.monotonic()))
    compiling_until = time.monotonic() + COMPILING * (deadline - time.monotonic())
    for size in device.sizes:
        for dtype in DTYPES:
            for make in (updates, *OPERATIONS, *FOLDING, embeddings):
                yield from _operation(device, ceilings, make, size, dtype, on, rounds, deadline, compiling_until)


def choose(device: Device, seconds: float, rounds: int, path: Path, rows: list[Row]) -> choice.Choices:
    """Find the fastest kernel of every matmul, and write the table of the fastest kernels to a file.

    Args:
        device: the device.
        seconds: the time.
        rounds: the rounds per kernel.
        path: the file of the table. Its entries stay where there is no time to measure.
        rows: a list to which the measured rows are added.

    Returns:
        The table.
    """
    entries: dict[choice.Key, str] = dict(choice.read(path)) if path.exists() else {}
    try:
        for measured in linear.choices(device, stream(device), seconds, rounds):
            entries[measured.key] = measured.fastest
            rows.extend(measured.rows)
            for row in measured.rows:
                show(row)
        choice.write(path, entries)
    except Exception as error:
        rows.append({"part": "choice", "operation": "gated_linear", "variant": "all", "error": short(error)})
    return entries


def _operation(
    device: Device,
    ceilings: Ceilings,
    make: Callable[[Device, int, str], Iterator[Case]],
    size: int,
    dtype: str,
    on: Any,
    rounds: int,
    deadline: float,
    compiling_until: float,
) -> Iterator[Row]:
    try:
        for case in make(device, size, dtype):
            if time.monotonic() > deadline:
                yield {"part": "operation", "operation": case.operation, "dtype": dtype, "error": "out of time"}
                return
            left_out = (
                ["compiled reference"] if time.monotonic() > compiling_until or case.locked in (0.75, 0.9) else []
            )
            variants = {name: maker for name, maker in case.variants.items() if name not in left_out}
            timed = measure(device, variants, rounds=rounds, on=on)
            yield from (row(case, name, timed, ceilings) for name in timed)
            gc.collect()  # the inputs of the largest size take gigabytes
            if not device.dry:
                torch.cuda.empty_cache()
    except Exception as error:
        yield {"part": "operation", "operation": make.__name__, "dtype": dtype, "error": short(error)}


def row(case: Case, name: str, timed: dict[str, Timed], ceilings: Ceilings) -> Row:
    """The row of a variant: its times, and its bytes and operations per second."""
    entries = {
        "part": "operation",
        "operation": case.operation,
        "shape": case.shape,
        "dtype": case.dtype,
        "size": case.size,
        "locked": case.locked,
        "variant": name,
        "bytes": case.bytes,
        "flops": case.flops,
        "ratio_to": steps.ratios(timed, name),
        **summary(timed[name]),
    }
    if "ms" in entries:
        seconds = 1e-3 * entries["ms"]["p50"]
        entries["gbs"] = case.bytes / seconds / 1e9
        entries["copy_share"] = case.bytes / seconds / ceilings.copy
        if case.flops:
            entries["tflops"] = case.flops / seconds / 1e12
            entries["matmul_share"] = case.flops / seconds / ceilings.matmul[case.dtype]
    return entries


def show(row: Row) -> None:
    """Print a row as one line, to show progress."""
    title = " ".join(str(row[key]) for key in ("operation", "shape", "dtype", "mode", "variant") if key in row)
    locked = f", {100 * row['locked']:.0f} % locked" if row.get("locked") else ""
    figure = f"{row['ms']['p50']:.4f} ms" if "ms" in row else row.get("error") or f"{row['seconds']:.1f} s"
    share = f", {100 * row['copy_share']:.0f} % of copy" if "copy_share" in row else ""
    print(f"{title}{locked}: {figure}{share}", file=sys.stderr, flush=True)
