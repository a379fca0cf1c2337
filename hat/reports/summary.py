"""A network's axes of units in a table: how full they are, what lies along them, and how much of it is locked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hat.conversion.body import Converted
from hat.life.model import HATModel
from hat.text import aligned, short_name
from hat.units.gate import Gate
from hat.units.locks import locked_elements, unlocked
from hat.units.per_task import PerTask, per_task

HEADS = "heads"
"""What reads the features, among the names of layers."""

_SHOWN = 2  # names of layers in a cell; of more, their number


@dataclass(frozen=True)
class AxisSummary:
    """One axis of units.

    Attributes:
        name: of its gate, a key of `HATModel.gates`.
        units: how many there are.
        used: how many a finished task uses.
        locked: the share in [0, 1] that is locked: those, and those of a network that came with them locked.
        tasks: how many finished tasks use one of them.
        own: modules along the axis of which every task has its own, as norms, by their names in the body.
        made_by: layers whose outputs the units are, by their names in the body.
        read_by: layers that take them as inputs; `"heads"` among them where the features are these units.
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
    """What `hat.summary` found; its `str` is a table.

    Attributes:
        rows: one an axis, in the order of `HATModel.gates`.
        tasks: how many are finished and not forgotten.
        shared: elements of all parameters that tasks share.
        locked: how many of them no task may move any more.
        own: elements of the parameters of which every task has its own, for one task, without head and masks.
        heads: how many there are.
        head_elements: elements of all of them.
        frozen: elements of parameters along no axis, which the end of the first task freezes; not among the shared.
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
        """Of the shared elements, in [0, 1]; 0.0 where there are none."""
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
    """The axes of a model's units, what lies along them, and how much of its parameters is locked.

    The share of locked elements is exact: an element is locked where its rate is 0, `hat_kernels.Lock`.

    Args:
        model: any, while it learns a task or between tasks; it is left as it is.

    Returns:
        Plain numbers and names; `print` shows them as a table.

    Raises:
        TypeError: `model` is not a `HATModel`.
    """
    if not isinstance(model, HATModel):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    names = {module: name for name, module in model.body.named_modules()}
    locks = model.locks()
    own = (p for module in per_task(model.body).values() for p in module.parameters(recurse=False))
    return Summary(
        rows=tuple(_axis(model, name, gate, names) for name, gate in model.gates.items()),
        tasks=len(model.remembered),
        shared=_elements(locks),
        locked=sum(locked_elements(lock, p) for p, lock in locks.items() if lock is not None),
        own=_elements(own),
        heads=len(model.heads) - len(model.forgotten),
        head_elements=_elements(model.heads.parameters()),
        frozen=_elements(unlocked(model.body).values()),
    )


def _axis(model: HATModel, name: str, gate: Gate, names: dict[nn.Module, str]) -> AxisSummary:
    reads_features = gate is model.outputs or (isinstance(model.body, Converted) and gate in model.body.loose)
    on = gate.masks > 0.5

    def which(wanted: Callable[[bool, bool], bool]) -> tuple[str, ...]:
        modules = (m.module for m in gate.members if wanted(isinstance(m.module, PerTask), m.produces))
        return tuple(dict.fromkeys(names.get(module) or type(module).__name__ for module in modules))

    return AxisSummary(
        name=name,
        units=gate.units,
        used=int(on.any(0).sum()),
        locked=(gate.used == 1).float().mean().item(),
        tasks=int(on.any(1).sum()),
        own=which(lambda own, produces: own),
        made_by=which(lambda own, produces: produces and not own),
        read_by=which(lambda own, produces: not produces and not own) + (HEADS,) * reads_features,
    )


def _elements(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _cells(row: AxisSummary) -> tuple[str, ...]:
    numbers = (f"{row.units:,}", f"{row.used:,}", f"{row.locked:.1%}", str(row.tasks), str(len(row.own)))
    return (short_name(row.name), *numbers, _some(row.made_by), _some(row.read_by))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(short_name, names[:_SHOWN])) + more or "-"
