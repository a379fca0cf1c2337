"""A table of the axes of a network: how many units are used, which layers lie along them, and how much is locked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hat.arguments import check_arguments
from hat.conversion.body import Converted
from hat.life.model import HATModel
from hat.text import aligned, short_name
from hat.units.gate import Gate
from hat.units.locks import locked_elements, unlocked
from hat.units.per_task import PerTask, per_task

HEADS = "heads"
"""The name that stands for the heads among the names of layers."""

_SHOWN = 2  # the most names of layers in a cell; the cell then says how many more there are


@dataclass(frozen=True)
class AxisSummary:
    """One axis of units.

    Attributes:
        name: of the gate of the axis, a key of `HATModel.gates`.
        units: the number of units.
        used: the number of units that a finished task uses.
        locked: the share of locked units, in [0, 1]: used units, and units that were reserved before the first task.
        tasks: the number of finished tasks that use a unit of the axis.
        own: names in the body of the modules along the axis that every task has for itself, such as norms.
        made_by: names in the body of the layers whose outputs are the units.
        read_by: names in the body of the layers whose inputs are the units, and `"heads"` if the heads read the units.
    """

    name: str
    units: int
    used: int
    locked: float
    tasks: int
    own: tuple[str, ...]
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """The result of `hat.summary`. `str` gives a table.

    Attributes:
        rows: one row an axis, in the order of `HATModel.gates`.
        tasks: the number of finished tasks that are not forgotten.
        shared: the number of elements of all parameters that tasks share.
        locked: the number of shared elements that no task may move any more.
        own: the number of elements that one task has for itself, without its head and masks.
        heads: the number of heads.
        head_elements: the number of elements of all heads.
        frozen: the number of elements of parameters along no axis, which are frozen when the first task ends. They do
            not count as shared.
    """

    rows: tuple[AxisSummary, ...]
    tasks: int
    shared: int
    locked: int
    own: int
    heads: int
    head_elements: int
    frozen: int

    @property
    def locked_share(self) -> float:
        """The locked share of the shared elements, in [0, 1]; 0.0 if nothing is shared."""
        return self.locked / self.shared if self.shared else 0.0

    def __str__(self) -> str:
        facts = [
            ("tasks finished", f"{self.tasks:,}", ""),
            ("shared parameters", f"{self.shared:,}", f"{self.locked_share:.1%} of them locked"),
            ("each task's own", f"{self.own:,}", "and its masks and head"),
            ("heads", f"{self.heads:,}", f"{self.head_elements:,} parameters"),
            ("along no axis", f"{self.frozen:,}", "frozen when the first task ends" if self.frozen else ""),
        ]
        head = ("axis", "units", "used", "locked", "tasks", "own", "made by", "read by")
        table = aligned([head, *map(_cells, self.rows)], numbers=range(1, 6))
        rule = "-" * max(map(len, table))
        return "\n".join([table[0], rule, *table[1:], rule, *aligned(facts, numbers=(1,))])


def summary(model: HATModel) -> Summary:
    """Summarise the axes of a model: their units, the layers along them, and how many elements are locked.

    The share of locked elements is exact: an element is locked if its rate is 0, see `hat_kernels.Lock`.

    Args:
        model: may be learning a task. It is not changed.

    Returns:
        Plain numbers and names; `print` shows them as a table.

    Raises:
        TypeError: `model` is not a `HATModel`.
    """
    check_arguments(summary, locals())
    names = {module: name for name, module in model.body.named_modules()}
    locks = model.locks()
    task_parameters = (p for module in per_task(model.body).values() for p in module.parameters(recurse=False))
    return Summary(
        rows=tuple(_axis(model, name, gate, names) for name, gate in model.gates.items()),
        tasks=len(model.remembered),
        shared=_elements(locks),
        locked=sum(locked_elements(lock, p) for p, lock in locks.items() if lock is not None),
        own=_elements(task_parameters),
        heads=len(model.heads) - len(model.forgotten),
        head_elements=_elements(model.heads.parameters()),
        frozen=_elements(unlocked(model.body).values()),
    )


def _axis(model: HATModel, name: str, gate: Gate, names: dict[nn.Module, str]) -> AxisSummary:
    read_by_heads = gate is model.outputs or (isinstance(model.body, Converted) and gate in model.body.loose)
    on = gate.masks > 0.5

    def modules_that(matches: Callable[[bool, bool], bool]) -> tuple[str, ...]:
        """Names of the members for which `matches(is per task, produces the units)` is true."""
        modules = (m.module for m in gate.members if matches(isinstance(m.module, PerTask), m.produces))
        return tuple(dict.fromkeys(names.get(module) or type(module).__name__ for module in modules))

    return AxisSummary(
        name=name,
        units=gate.units,
        used=int(on.any(0).sum()),
        locked=(gate.used == 1).float().mean().item(),
        tasks=int(on.any(1).sum()),
        own=modules_that(lambda per_task, produces: per_task),
        made_by=modules_that(lambda per_task, produces: produces and not per_task),
        read_by=modules_that(lambda per_task, produces: not produces and not per_task) + (HEADS,) * read_by_heads,
    )


def _elements(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _cells(row: AxisSummary) -> tuple[str, ...]:
    numbers = (f"{row.units:,}", f"{row.used:,}", f"{row.locked:.1%}", str(row.tasks), str(len(row.own)))
    return (short_name(row.name), *numbers, _some(row.made_by), _some(row.read_by))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(short_name, names[:_SHOWN])) + more or "-"
