"""Measuring all cases within a time: every row keeps its own error, so that one failure loses one row."""

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
STEPS = 0.35  # of the time: the steps of the paper's networks
CONVERTED = 0.35  # of the time that they leave: those of networks that are converted
MIXED = 0.1  # of the time that those leave: answers for batches of many tasks
EXPORTED = 0.1  # of the time that those leave: exported networks
WHOLE = 0.35  # of the time that all steps leave: what whole runs may take
COMPILING = 0.5  # of the time: what torch.compile may have before its variants are left out


def measure_all(device: Device, ceilings: Ceilings, seconds: float, rounds: int) -> Iterator[Row]:
    """Whole steps, whole runs, then single operations, largest first."""
    deadline = time.monotonic() + seconds
    on = stream(device)
    parts = (
        ("step", STEPS, steps.rows),
        ("converted", CONVERTED, converted.rows),
        ("mixed", MIXED, mixed.rows),
        ("exported", EXPORTED, exported.rows),
    )
    for part, share, measured in parts:
        now = time.monotonic()
        try:
            yield from measured(device, on, rounds, now + share * (deadline - now))
        except Exception as error:
            yield {"part": part, "operation": "step", "variant": "all", "error": short(error)}
    yield from whole.rows(device, time.monotonic() + WHOLE * (deadline - time.monotonic()))
    compiling_until = time.monotonic() + COMPILING * (deadline - time.monotonic())
    for size in device.sizes:
        for dtype in DTYPES:
            for make in (updates, *OPERATIONS, *FOLDING, embeddings):
                yield from _operation(device, ceilings, make, size, dtype, on, rounds, deadline, compiling_until)


def choose(device: Device, seconds: float, rounds: int, path: Path, rows: list[Row]) -> choice.Choices:
    """Find the fastest kernel of every matmul, write the table to `path`, and return it; rows as they come."""
    entries: dict[choice.Key, str] = dict(choice.read(path)) if path.exists() else {}  # what there is no time for now
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
            gc.collect()  # the sets of the largest size are gigabytes
            if not device.dry:
                torch.cuda.empty_cache()
    except Exception as error:
        yield {"part": "operation", "operation": make.__name__, "dtype": dtype, "error": short(error)}


def row(case: Case, name: str, timed: dict[str, Timed], ceilings: Ceilings) -> Row:
    """A variant's times, and what they come to in bytes and operations a second."""
    found = {
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
    if "ms" in found:
        seconds = 1e-3 * found["ms"]["p50"]
        found["gbs"] = case.bytes / seconds / 1e9
        found["copy_share"] = case.bytes / seconds / ceilings.copy
        if case.flops:
            found["tflops"] = case.flops / seconds / 1e12
            found["matmul_share"] = case.flops / seconds / ceilings.matmul[case.dtype]
    return found


def show(row: Row) -> None:
    """One line a row as it comes."""
    what = " ".join(str(row[key]) for key in ("operation", "shape", "dtype", "mode", "variant") if key in row)
    locked = f", {100 * row['locked']:.0f} % locked" if row.get("locked") else ""
    figure = f"{row['ms']['p50']:.4f} ms" if "ms" in row else row.get("error") or f"{row['seconds']:.1f} s"
    share = f", {100 * row['copy_share']:.0f} % of copy" if "copy_share" in row else ""
    print(f"{what}{locked}: {figure}{share}", file=sys.stderr, flush=True)
