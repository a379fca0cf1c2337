"""After how many more tasks a network is full."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hat.life.model import HATModel
from hat.text import aligned, axis_name
from hat.units.gate import Gate

LAST = 3
"""So many of the newest tasks tell what the next will use."""


@dataclass(frozen=True)
class AxisForecast:
    """One axis of units.

    Attributes:
        name: of its gate, a key of `HATModel.gates`.
        units: how many there are.
        free: how many no task has used yet.
        mean_new: how many units of the axis that no earlier task had used the newest tasks took, on average.
    """

    name: str
    units: int
    free: int
    mean_new: float

    @property
    def full_after(self) -> float:
        """`free / mean_new`: after how many more tasks like those the axis is full.

        0 where it is already; infinity where those tasks took no new unit, or there was none.
        """
        if not self.free:
            return 0.0
        return self.free / self.mean_new if self.mean_new else math.inf


@dataclass(frozen=True)
class Forecast:
    """What `hat.forecast` found; its `str` is a table.

    Attributes:
        rows: one an axis, in the order of `HATModel.gates`.
        last: over how many of the newest tasks was averaged.
    """

    rows: tuple[AxisForecast, ...]
    last: int

    @property
    def first_full(self) -> AxisForecast | None:
        """The axis that is full first; None where none will be if all goes on like this."""
        first = min(self.rows, key=lambda row: row.full_after)
        return None if math.isinf(first.full_after) else first

    @property
    def full_after(self) -> float:
        """Of that axis; infinity where there is none."""
        return min(row.full_after for row in self.rows)

    def __str__(self) -> str:
        head = ("axis", "units", "free", "new a task", "full after")
        table = aligned([head, *map(_cells, self.rows)], numbers=range(1, 5))
        rule = "-" * max(map(len, table))
        return "\n".join([table[0], rule, *table[1:], rule, self._conclusion()])

    def _conclusion(self) -> str:
        over = f"new a task: mean of the last {self.last}" if self.last != 1 else "new a task: that of the last"
        if not self.last:
            return "no finished task to go by"
        if self.first_full is None:
            return f"{over}; no axis fills up"
        name, after = axis_name(self.first_full.name), self.full_after
        return f"{over}; {name} {'is full' if not after else f'is the first that is full, after {after:.1f} more'}"


def forecast(model: HATModel, *, last: int = LAST) -> Forecast:
    """After how many more tasks like the newest ones each axis of units is full.

    A unit is new to the first finished task whose mask exceeds 0.5 there; one that was used before the first task
    (`Gate.reserved`) is new to none. A task that was forgotten counts as if it had never been learned.

    Args:
        model: any, while it learns a task or between tasks, grown since or not; it is left as it is.
        last: average over so many of the newest finished tasks, >= 1; over all where there are fewer.

    Raises:
        TypeError: `model` is not a `HATModel`.
        ValueError: `last` is below 1.
    """
    if not isinstance(model, HATModel):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    if last < 1:
        raise ValueError(f"last: expected at least 1, got {last}")
    tasks = finished_tasks(model)[-last:]
    return Forecast(tuple(_axis(name, gate, tasks) for name, gate in model.gates.items()), len(tasks))


def finished_tasks(model: HATModel) -> list[int]:
    """The ids of the finished tasks that were not forgotten and have masks."""
    gone = model.forgotten
    masks = min(gate.tasks for gate in model.gates.values())
    return [task for task in range(masks) if task not in gone]


def newly_used(gate: Gate) -> Tensor:
    """[T, units] bool, whether a finished task uses a unit that none before it used, nor what the network came with."""
    used = gate.masks > 0.5
    before = torch.cat([gate.reserved[None] > 0.5, used])[: len(used)]
    return used & ~before.cumsum(0).bool()


def _axis(name: str, gate: Gate, tasks: list[int]) -> AxisForecast:
    free = gate.units - int((gate.used > 0.5).sum())
    taken = int(newly_used(gate)[tasks].sum())
    return AxisForecast(name, gate.units, free, taken / len(tasks) if tasks else 0.0)


def _cells(row: AxisForecast) -> tuple[str, ...]:
    after = "never" if math.isinf(row.full_after) else f"{row.full_after:.1f} tasks" if row.free else "now"
    return axis_name(row.name), f"{row.units:,}", f"{row.free:,}", f"{row.mean_new:.1f}", after
