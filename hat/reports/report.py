"""What a model looks like inside: which task uses which units, what they share, and what is left."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hat import plots
from hat.life.model import HATModel
from hat.reports.forecast import LAST, Forecast, finished_tasks, forecast, newly_used
from hat.text import aligned, axis_name
from hat.units.gate import Gate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 10  # tasks side by side in a table
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class TaskUnits:
    """What one task uses of one axis of units.

    Attributes:
        task: its id.
        axis: the name of the gate, a key of `HATModel.gates`.
        used: units that are on.
        new: how many of them no earlier task had used; the others it shares with earlier tasks.
    """

    task: int
    axis: str
    used: int
    new: int

    @property
    def shared(self) -> int:
        """With earlier tasks."""
        return self.used - self.new


@dataclass(frozen=True, eq=False)
class Report:
    """What `hat.report` found; its `str` is a table of the axes, one of the tasks, and one of what tasks share.

    Attributes:
        tasks: ids of the finished tasks, those that were forgotten excepted.
        names: of these tasks.
        rows: one a task and axis, by tasks.
        forecast: of every axis how many units are free, and for how many tasks that is enough.
        overlap: [T, T] float64, the share of a task's units (row) that another one (column) uses too, over all axes.
        masks: [T, units] bool of every axis by name, in the order in which the units lie now.
        reserved: [units] bool of every axis by name, units that are used by what the network was trained for before.
        channels: names of the axes whose units are channels of convolutions.
    """

    tasks: tuple[int, ...]
    names: tuple[str, ...]
    rows: tuple[TaskUnits, ...]
    forecast: Forecast
    overlap: Tensor
    masks: dict[str, Tensor]
    reserved: dict[str, Tensor]
    channels: tuple[str, ...]

    def __str__(self) -> str:
        parts = [str(self.forecast), self._units(), self._overlap()]
        return "\n\n".join(part for part in parts if part)

    def plots(self) -> dict[str, Figure]:
        """Pictures by name; none where no task is finished.

        `units`, what every task uses of every axis; `capacity`, how the axes fill up; `overlap`, what tasks share; and
        `channels-AXIS`, the masks of every axis of channels as an image.

        Raises:
            ImportError: matplotlib is missing.
        """
        if not self.tasks:
            return {}
        axes = list(map(axis_name, self.masks))
        used = [(mask.cumsum(0) + self.reserved[name] > 0).double() for name, mask in self.masks.items()]
        total = torch.cat(used, 1).mean(1)
        figures = {
            "units": plots.units(list(self.masks.values()), axes, self.names, reserved=list(self.reserved.values())),
            "capacity": plots.capacity(torch.stack([full.mean(1) for full in used], 1), axes, total=total),
            "overlap": plots.overlap(self.overlap, self.names),
        }
        for name in self.channels:
            picture = plots.channels(self.masks[name], axis_name(name), self.names, reserved=self.reserved[name])
            figures["channels-" + re.sub(r"[^\w.-]", "_", axis_name(name))] = picture
        return figures

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the pictures to a folder, which is made, as PNG files.

        Returns:
            The files.

        Raises:
            ImportError: matplotlib is missing.
            OSError: they cannot be written.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        files = []
        for name, figure in self.plots().items():
            files.append(Path(folder) / f"{name}.png")
            plots.save(figure, files[-1])
        return files

    def _units(self) -> str:
        """One row an axis, one column a task."""
        shown = self.tasks[-_SHOWN:]
        if not shown:
            return ""
        cells = {(row.task, row.axis): f"{row.used:,} ({row.new:,})" for row in self.rows}
        lines = [[axis_name(axis), *(cells[task, axis] for task in shown)] for axis in self.masks]
        mine = [[row for row in self.rows if row.task == task] for task in shown]
        totals = [f"{sum(row.used for row in rows):,} ({sum(row.new for row in rows):,})" for rows in mine]
        of = f"the last {_SHOWN} of {len(self.tasks)} tasks" if len(shown) < len(self.tasks) else "every task"
        title = f"units that {of} used (those that no earlier one had used; the others it shares)"
        return _table(title, ["axis", *map(str, shown)], lines, ["all axes", *totals])

    def _overlap(self) -> str:
        """One row and one column a task."""
        if len(self.tasks) < 2:
            return ""
        shown = range(max(0, len(self.tasks) - _SHOWN), len(self.tasks))
        shares = self.overlap.tolist()
        lines = [
            [
                f"{self.tasks[task]}: {self.names[task]}",
                *("-" if other == task else f"{shares[task][other]:.1%}" for other in shown),
            ]
            for task in shown
        ]
        head = ["task", *(str(self.tasks[task]) for task in shown)]
        return _table("units of a task (row) that another one uses too (column)", head, lines)


def report(model: HATModel, *, names: Sequence[str] | None = None, last: int = LAST) -> Report:
    """Which units every task uses, which it shares, what is free, and how long that is enough.

    A unit counts as used where a committed mask exceeds 0.5. `hat.summary` shows what lies along the axes, and how much
    of it is locked.

    Args:
        model: any, while it learns a task or between tasks; it is left as it is.
        names: of the tasks by their ids, of forgotten ones too; by default `task 0` and so on.
        last: as of `hat.forecast`.

    Raises:
        TypeError: `model` is not a `HATModel`.
        ValueError: `last` is below 1, or there are not as many names as tasks.
    """
    found = forecast(model, last=last)
    tasks = finished_tasks(model)
    if names is not None and len(names) != model.tasks:
        raise ValueError(f"names: expected {model.tasks}, one a task, got {len(names)}")
    masks = {name: (gate.masks[tasks] > 0.5).cpu() for name, gate in model.gates.items()}
    counts = {name: newly_used(gate).sum(1).tolist() for name, gate in model.gates.items()}
    return Report(
        tasks=tuple(tasks),
        names=tuple(f"task {task}" if names is None else str(names[task]) for task in tasks),
        rows=tuple(
            TaskUnits(task, name, int(mask[index].sum()), counts[name][task])
            for index, task in enumerate(tasks)
            for name, mask in masks.items()
        ),
        forecast=found,
        overlap=plots.overlap_matrix([mask.double() for mask in masks.values()]),
        masks=masks,
        reserved={name: (gate.reserved > 0.5).cpu() for name, gate in model.gates.items()},
        channels=tuple(name for name, gate in model.gates.items() if _has_channels(gate)),
    )


def _has_channels(gate: Gate) -> bool:
    return any(isinstance(member.module, _CONVOLUTIONS) for member in gate.members)


def _table(title: str, head: list[str], lines: list[list[str]], total: list[str] | None = None) -> str:
    rows = [head, *lines, *([] if total is None else [total])]
    table = aligned(rows, numbers=range(1, len(head)))
    rule = "-" * max(map(len, table))
    end = len(lines) + 1
    return "\n".join([title, "", table[0], rule, *table[1:end], *([rule, *table[end:]] if total else [])])
