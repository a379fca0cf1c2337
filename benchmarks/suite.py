"""What is measured on a CPU: the parts by name, and which variants need a process for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks.cost import Machine
from benchmarks.parts import epoch, memory, mixed, operation, scale, tasks, width
from benchmarks.plan import Plan, Row, Workers
from benchmarks.variants import PLAIN

Part = Callable[[Machine, Plan, Workers], Iterator[Row]]

PARTS: dict[str, Part] = {
    "epoch": epoch.epochs,
    "scale": scale.scales,
    "operation": operation.operations,
    "memory": memory.memories,
    "tasks": tasks.many_tasks,
    "width": width.widths,
    "mixed": mixed.mixed,
}
"""The first also measures the phases of a step."""

NEEDED = {"epoch": epoch.VARIANTS, "scale": scale.VARIANTS, "tasks": (PLAIN,), "width": width.VARIANTS}


def needed(parts: Sequence[str]) -> dict[str, str]:
    """The variants that share their processes among these parts."""
    return {name: name for part in parts for name in NEEDED.get(part, ())}
