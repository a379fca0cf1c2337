"""Timing on a device that works asynchronously: events around many calls, captured as a graph where that is possible.

A graph keeps the cost of launching out of the time of a kernel; where a call cannot be captured its eager time is
taken, and its row says so. Variants take turns, round by round, as in `benchmarks.measure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.device import Device
from benchmarks.measure import quantiles, turns

Call = Callable[[], object]
Maker = Callable[[], Sequence[Call]]
TARGET = 2e-3  # seconds of one timed burst: a thousand times the resolution of an event
BURST = 64  # calls at most in one


@dataclass
class Timed:
    """Milliseconds of one call, one a round; or why there are none."""

    how: str = ""
    ms: list[float] = field(default_factory=list)
    error: str = ""


def stream(device: Device) -> Any:
    """The stream of all that is measured: a graph can only capture a backward whose forward ran on its stream."""
    return None if device.dry else torch.cuda.Stream()


def measure(
    device: Device,
    variants: Mapping[str, Maker],
    *,
    rounds: int = 15,
    on: Any = None,
    capture: bool = True,
    own_graph: Collection[str] = (),
) -> dict[str, Timed]:
    """Times of every variant, in rounds. A variant makes a list of calls on inputs of their own, to rotate through.

    An exception of a variant costs that variant only. Those of `own_graph` replay graphs themselves: they are timed as
    they are called.
    """
    results = {name: Timed() for name in variants}
    bursts: dict[str, tuple[Call, int]] = {}
    with torch.cuda.stream(on):
        for name, make in variants.items():
            try:
                graph = capture and name not in own_graph
                bursts[name] = _prepare(device, make(), results[name], on, graph)
            except Exception as error:
                results[name].error = short(error)
        for name, _ in turns(list(bursts), range(rounds), 1) if bursts else ():
            if results[name].error:
                continue
            try:
                results[name].ms.append(_time(device, *bursts[name]))
            except Exception as error:
                results[name].error = short(error)
    return results


def short(error: BaseException) -> str:
    """An exception in one line of a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def summary(timed: Timed) -> dict[str, Any]:
    """For a row: quantiles, or the error."""
    if timed.error or not timed.ms:
        return {"error": timed.error or "not measured"}
    return {"ms": quantiles(timed.ms), "rounds": len(timed.ms), "timed": timed.how}


def _prepare(device: Device, calls: Sequence[Call], result: Timed, on: Any, capture: bool) -> tuple[Call, int]:
    """A burst of calls, and how many it has: warm, and as long as `TARGET` if `BURST` allows."""
    for call in calls:
        call()
    once = max(_time(device, calls[0], 1), 1e-6) / 1e3
    count = 1 if device.dry else min(BURST, max(len(calls), round(TARGET / once)))

    def eager() -> None:
        for index in range(count):
            calls[index % len(calls)]()

    if device.dry or not capture:
        result.how = "wall clock" if device.dry else "eager"
        return eager, count
    waits = _waits(calls[0])
    if waits:
        result.how = f"eager, as it waits for the device: {waits}"
        return eager, count
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=on):
            eager()
        graph.replay()
        torch.cuda.synchronize()
    except Exception as error:
        torch.cuda.synchronize()
        result.how = f"eager, as capturing failed: {short(error)}"
        return eager, count
    result.how = "graph"
    return graph.replay, count


def _waits(call: Call) -> str:
    """Why a call cannot be captured, if it synchronises: a capture that fails can leave the random generator behind."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return short(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def _time(device: Device, burst: Call, count: int) -> float:
    """Milliseconds of one of the calls in a burst."""
    if device.dry:
        start = time.perf_counter()
        burst()
        return 1e3 * (time.perf_counter() - start) / count
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    burst()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / count
