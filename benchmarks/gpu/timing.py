"""Timing on a GPU, which works asynchronously: events before and after a burst of many calls.

The burst is captured as a CUDA graph, so that the time of a kernel does not include the cost of its launch. If a call
cannot be captured, it is timed eagerly, and its row says so. Variants take turns, round by round, as in
`benchmarks.measure`.
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
TARGET = 2e-3  # the seconds of one timed burst: a thousand times the resolution of an event
BURST = 64  # the most calls in a burst


@dataclass
class Timed:
    """The times of a variant.

    Attributes:
        how: how the calls were timed.
        ms: the milliseconds of one call, one number per round.
        error: the error that ended the measurement; empty if there was none.
    """

    how: str = ""
    ms: list[float] = field(default_factory=list)
    error: str = ""


def stream(device: Device) -> Any:
    """The stream of all measurements. A graph can capture a backward only if its forward ran on the same stream."""
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
    """Time every variant, in rounds. If a variant raises an exception, the other variants go on.

    Args:
        device: the device.
        variants: by name, functions that make a list of calls. The calls have different inputs, and take turns.
        rounds: the number of rounds.
        on: the stream.
        capture: capture the calls as a graph.
        own_graph: the names of variants that capture a graph themselves. Their calls are not captured.
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
    """An exception as one line, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def summary(timed: Timed) -> dict[str, Any]:
    """The entries of a row: the quantiles of the times, or the error."""
    if timed.error or not timed.ms:
        return {"error": timed.error or "not measured"}
    return {"ms": quantiles(timed.ms), "rounds": len(timed.ms), "timed": timed.how}


def _prepare(device: Device, calls: Sequence[Call], result: Timed, on: Any, capture: bool) -> tuple[Call, int]:
    """Make a burst of calls that is warmed up.

    Returns:
        The burst, and its number of calls. The burst takes about `TARGET` seconds, or has `BURST` calls.
    """
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
    """The error of a call that waits for the device, empty if the call does not wait.

    Such a call cannot be captured. The call is tested first, because a failed capture can leave the random generator in
    a broken state.
    """
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return short(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def _time(device: Device, burst: Call, count: int) -> float:
    """The milliseconds of one call, the mean over a burst of `count` calls."""
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
