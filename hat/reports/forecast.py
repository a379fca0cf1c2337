"""Forecast after how many more tasks a network is full."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hat.arguments import check_arguments, check_whole
from hat.life.model import HATModel
from hat.text import aligned, axis_name
from hat.units.gate import Gate

LAST = 3
"""By default, the forecast averages over this many of the newest tasks."""


@dataclass(frozen=True)
class AxisForecast:
    """The forecast for one axis of units.

    Attributes:
        name: of the gate of the axis, a key of `HATModel.gates`.
        units: the number of units.
        free: the number of units that no task has used yet.
        mean_new: the number of new units (used by no earlier task) of a task, on average over the newest tasks.
    """

    name: str
    units: int
    free: int
    mean_new: float

    @property
    def full_after(self) -> float:
        """`free / mean_new`: after how many more tasks like the newest ones the axis is full.

        0 if the axis is already full. Infinity if the newest tasks took no new units, or if there is no finished task.
        """
        if not self.free:
            return 0.0
        return self.free / self.mean_new if self.mean_new else math.inf


@dataclass(frozen=True)
class Forecast:
    """The result of `hat.forecast`. `str` gives a table.

    Attributes:
        rows: one row an axis, in the order of `HATModel.gates`.
        last: the number of newest tasks that the forecast averages over.
    """

    rows: tuple[AxisForecast, ...]
    last: int

    @property
    def first_full(self) -> AxisForecast | None:
        """The axis that is full first; None if no axis fills up with tasks like the newest ones."""
        first = min(self.rows, key=lambda row: row.full_after)
        return None if math.isinf(first.full_after) else first

    @property
    def full_after(self) -> float:
        """After how many more tasks the first axis is full; infinity if no axis fills up."""
        return min(row.full_after for row in self.rows)

    def __str__(self) -> str:
        head = ("axis", "units", "free", "new a task", "full after")
        table = aligned([head, *map(_cells, self.rows)], numbers=range(1, 5))
        rule = "-" * max(map(len, table))
        return "\n".join([table[0], rule, *table[1:], rule, self._conclusion()])

    def _conclusion(self) -> str:
        averaged = f"new a task: mean of the last {self.last}" if self.last != 1 else "new a task: those of the last"
        if not self.last:
            return "no forecast, as no task is finished"
        if self.first_full is None:
            return f"{averaged}; no axis fills up"
        name, after = axis_name(self.first_full.name), self.full_after
        return f"{averaged}; {name} {'is full' if not after else f'is full first, after {after:.1f} more tasks'}"


def forecast(model: HATModel, *, last: int = LAST) -> Forecast:
    """Forecast after how many more tasks like the newest ones each axis of units is full.

    A unit is new for the first finished task whose mask exceeds 0.5 at this unit. A unit that was used before the first
    task (`Gate.reserved`) is new for no task. A forgotten task counts as if it had never been learned.

    Args:
        model: may be learning a task, and may have grown. It is not changed.
        last: average over this many of the newest finished tasks, >= 1; over all tasks if there are fewer.

    Raises:
        TypeError: `model` is not a `HATModel`.
        ValueError: `last` is below 1.
    """
    check_arguments(forecast, locals())
    check_whole("last", int(last), least=1)
    tasks = finished_tasks(model)[-last:]
    return Forecast(tuple(_axis(name, gate, tasks) for name, gate in model.gates.items()), len(tasks))


def finished_tasks(model: HATModel) -> list[int]:
    """The ids of the finished tasks that have masks and are not forgotten."""
    masks = min(gate.tasks for gate in model.gates.values())
    return [task for task in range(masks) if task not in model.forgotten]


def newly_used(gate: Gate) -> Tensor:
    """bool [T, units]: whether a finished task uses a unit that is neither reserved nor used by an earlier task."""
    used = gate.masks > 0.5
    before = torch.cat([gate.reserved[None] > 0.5, used])[: len(used)]
    return used & ~before.cumsum(0).bool()


def _axis(name: str, gate: Gate, tasks: list[int]) -> AxisForecast:
    free = gate.units - int((gate.used > 0.5).sum())
    new = int(newly_used(gate)[tasks].sum())
    return AxisForecast(name, gate.units, free, new / len(tasks) if tasks else 0.0)


def _cells(row: AxisForecast) -> tuple[str, ...]:
    after = "never" if math.isinf(row.full_after) else f"{row.full_after:.1f} tasks" if row.free else "now"
    return axis_name(row.name), f"{row.units:,}", f"{row.free:,}", f"{row.mean_new:.1f}", after
