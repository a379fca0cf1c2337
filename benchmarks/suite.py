"""The parts of the CPU benchmark by name, and the variants that need a process."""

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
"""The functions of the parts. `epoch` measures the phases of a step too."""

NEEDED = {"epoch": epoch.VARIANTS, "scale": scale.VARIANTS, "tasks": (PLAIN,), "width": width.VARIANTS}


def needed(parts: Sequence[str]) -> dict[str, str]:
    """The variants that need a process for these parts. The parts share the process of a variant."""
    return {name: name for part in parts for name in NEEDED.get(part, ())}
