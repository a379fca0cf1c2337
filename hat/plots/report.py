"""Report on the units of a model: the units that every task uses, units that tasks share, and free units."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hat.arguments import check_arguments, check_path
from hat.life.model import HATModel
from hat.plots.canvas import save
from hat.plots.heat_maps import overlap, overlap_matrix
from hat.plots.lines import capacity
from hat.plots.units import channels, units
from hat.reports.forecast import LAST, Forecast, finished_tasks, forecast, newly_used
from hat.text import aligned, axis_name
from hat.units.gate import Gate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 10  # the most tasks side by side in a table
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class TaskUnits:
    """The units of one axis that one task uses.

    Attributes:
        task: the id of the task.
        axis: the name of the gate, a key of `HATModel.gates`.
        used: the number of units that are on.
        new: the number of these units that no earlier task had used.
    """

    task: int
    axis: str
    used: int
    new: int

    @property
    def shared(self) -> int:
        """The number of used units that an earlier task uses too."""
        return self.used - self.new


@dataclass(frozen=True, eq=False)
class Report:
    """The result of `hat.report`. `str` gives three tables: of the axes, of the tasks, and of shared units.

    Attributes:
        tasks: ids of the finished tasks that are not forgotten.
        names: the names of these tasks.
        rows: one row for each task and axis, sorted by task.
        forecast: the number of free units of every axis, and for how many tasks they are enough.
        overlap: [T, T] float64, the share of the units of a task (row) that another task (column) uses too, over all
            axes.
        masks: [T, units] bool for every axis by name, in the present order of the units.
        reserved: [units] bool for every axis by name: the units that were reserved before the first task, because the
            network had been trained before.
        channels: the names of the axes whose units are channels of convolutions.
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
        """Draw the pictures, by name. If no task is finished, there are no pictures.

        `units` shows the units that every task uses on every axis; `capacity` shows how the axes fill up; `overlap`
        shows the units that tasks share; `channels-AXIS` shows the masks of an axis of channels as an image.

        Raises:
            ImportError: matplotlib is missing.
        """
        if not self.tasks:
            return {}
        axes = list(map(axis_name, self.masks))
        used = [(mask.cumsum(0) + self.reserved[name] > 0).double() for name, mask in self.masks.items()]
        total = torch.cat(used, 1).mean(1)
        figures = {
            "units": units(list(self.masks.values()), axes, self.names, reserved=list(self.reserved.values())),
            "capacity": capacity(torch.stack([full.mean(1) for full in used], 1), axes, total=total),
            "overlap": overlap(self.overlap, self.names),
        }
        for name in self.channels:
            picture = channels(self.masks[name], axis_name(name), self.names, reserved=self.reserved[name])
            figures["channels-" + re.sub(r"[^\w.-]", "_", axis_name(name))] = picture
        return figures

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the pictures to a folder as PNG files. The folder is made if it does not exist.

        Returns:
            The paths of the files.

        Raises:
            ImportError: matplotlib is missing.
            OSError: the files cannot be written.
            TypeError, ValueError: `folder` is no path.
        """
        check_path("folder", folder)
        Path(folder).mkdir(parents=True, exist_ok=True)
        files: list[Path] = []
        for name, figure in self.plots().items():
            files.append(Path(folder) / f"{name}.png")
            save(figure, files[-1])
        return files

    def _units(self) -> str:
        """The table of used units: one row per axis, one column per task."""
        shown = self.tasks[-_SHOWN:]
        if not shown:
            return ""
        cells = {(row.task, row.axis): f"{row.used:,} ({row.new:,})" for row in self.rows}
        lines = [[axis_name(axis), *(cells[task, axis] for task in shown)] for axis in self.masks]
        rows_by_task = [[row for row in self.rows if row.task == task] for task in shown]
        totals = [f"{sum(row.used for row in rows):,} ({sum(row.new for row in rows):,})" for rows in rows_by_task]
        task_range = f"the last {_SHOWN} of {len(self.tasks)} tasks" if len(shown) < len(self.tasks) else "every task"
        title = f"units used by {task_range} (in brackets: units that no earlier task had used)"
        return _table(title, ["axis", *map(str, shown)], lines, ["all axes", *totals])

    def _overlap(self) -> str:
        """The table of shared units: one row and one column per task."""
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
        return _table("share of the units of a task (row) that another task (column) uses too", head, lines)


def report(model: HATModel, *, names: Sequence[str] | None = None, last: int = LAST) -> Report:
    """Report the units that every task uses, units that tasks share, free units, and how many tasks find room in them.

    A unit counts as used if a committed mask exceeds 0.5. `hat.summary` shows the layers along the axes, and how many
    weights are locked.

    Args:
        model: the model. It may be learning a task. It is not changed.
        names: the names of all tasks in the order of their ids, forgotten tasks included; by default `task 0`,
            `task 1` and so on.
        last: as in `hat.forecast`.

    Raises:
        TypeError: `model` is not a `HATModel`.
        ValueError: `last` is below 1, or there are more or fewer names than tasks.
    """
    check_arguments(report, locals())
    axis_forecast = forecast(model, last=last)
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
        forecast=axis_forecast,
        overlap=overlap_matrix([mask.double() for mask in masks.values()]),
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
