"""Check a state before a model loads it: every part against every other part, and against what the state lacks.

Example: a model with 3 finished tasks loads a state with `strict=False`. The state has everything but the heads.

    masks of a gate        [3, units]   one row for each of the 3 tasks of the state: fits
    heads                  absent       the model keeps its own, if the state's tasks have as many classes
    running_mean_tasks     [2, units]   refused: expected 3 rows

The state brings only a part of what finished tasks use, so the tasks of the model stay. Then no element that they use
may change: not their masks, and not the weights between units that they use. A state that brings all that belongs to
tasks replaces the tasks.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hat.layers.gated_norm import GatedNorm
from hat.life.facts import Facts
from hat.network.network import Network
from hat.resizing.grow import counts_to
from hat.resizing.resize import resize
from hat.text import dotted
from hat.units.buffers import foreign
from hat.units.gate import Gate
from hat.units.locks import unlocked
from hat.units.per_task import PerTask
from hat.units.state import Float32Module
from hat_kernels.lock import rate

FACTS = "_extra_state"
"""The name of the facts in a state."""


class Plan(NamedTuple):
    """What a model must become so that a state fits.

    Attributes:
        facts: the tasks of the model after the load.
        counts: [units] int64 through all gates, with which the model grows first; None if it does not grow.
        misfits: why the state is refused, one sentence each; none if it fits.
    """

    facts: Facts
    counts: Tensor | None
    misfits: list[str]


def plan(model: Network, state: Mapping[str, Any], *, assign: bool) -> Plan:
    """Check a state.

    Args:
        model: the model; it is not changed.
        state: the values by their names in the model. Some may be absent.
        assign: the model will take the tensors of the state instead of their values.
    """
    facts = Facts.of(model)
    if FACTS in state:
        try:
            facts = Facts.read(state[FACTS])
        except ValueError as error:
            return Plan(facts, None, [f"{FACTS}: {error}"])
    not_tensors = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if not_tensors:
        return Plan(
            facts, None, [f"{name}: expected a tensor, got {type(state[name]).__name__}" for name in not_tensors]
        )
    counts, misfits = _growth(model, state)
    if misfits:
        return Plan(facts, None, misfits)
    target = model
    if counts is not None:
        target = copy.deepcopy(model)
        resize(target, counts)
    check = _Check(target, state, facts)
    misfits = [*check.heads(), *check.shapes(assign)]
    misfits = misfits or [*check.values()]
    return Plan(facts, counts, misfits or [*check.changes()])


def names(model: Network) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """(name in a state, owner, name there, tensor) of every tensor that a load may write, under all of its names.

    Modules that load their tensors in a way of their own are left out: they check them themselves.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        if _loads_itself(module):
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and name not in module._non_persistent_buffers_set:
                yield dotted(path, name), module, name, tensor


def _loads_itself(module: nn.Module) -> bool:
    """Whether a module of the user's loads its tensors by other code than that of torch, or renames them before."""
    own_code = type(module)._load_from_state_dict is not nn.Module._load_from_state_dict
    return bool(module._load_state_dict_pre_hooks) or (own_code and not isinstance(module, Gate | PerTask | Network))


def _growth(model: Network, state: Mapping[str, Any]) -> tuple[Tensor | None, list[str]]:
    """The counts with which the model grows to the numbers of units in the state, and why it cannot."""
    longer = {}
    for name, gate in model.gates.items():
        key = dotted("body", name, "embedding")
        embedding = state.get(key)
        if embedding is not None and embedding.dim() == 1 and len(embedding) > gate.units:
            longer[name] = len(embedding)
    if not longer:
        return None, []
    on_meta = any(embedding.is_meta for embedding in model.embeddings)
    counts = None if on_meta else counts_to(model, longer)
    if counts is not None:
        return counts, []
    reason = "a model on the meta device cannot grow" if on_meta else "its gate cannot grow to this number"
    return None, [
        f"body.{name}.embedding: size mismatch, expected {model.gates[name].units} units, got {number}; {reason}"
        for name, number in longer.items()
    ]


class _Check:
    """The checks of one state.

    Args:
        model: the model, with as many units as the state, before the load.
        state: the values by their names in the model.
        facts: the tasks of the model after the load.
    """

    def __init__(self, model: Network, state: Mapping[str, Tensor], facts: Facts) -> None:
        self.model, self.state, self.facts = model, state, facts
        self.rows = facts.tasks if model.commits else 0

    def heads(self) -> Iterator[str]:
        """Whether every task has a head, and a forgotten task has none."""
        tasks = sum(map(bool, self.facts.classes))
        if tasks > max(len(self.state), len(self.model.heads)):  # a damaged state may tell of millions of tasks
            yield f"{FACTS}: expected a head for each of its {tasks} tasks, got fewer"
            return
        expected = {f"heads.{task}.{name}" for task in range(len(self.facts.classes)) for name in ("weight", "bias")}
        given = {name for name in self.state if name.startswith("heads.")}
        for name in sorted(given - expected) if FACTS in self.state else ():
            yield f"{name}: expected no head, because {FACTS} tells of {len(self.facts.classes)} tasks"
        for task, classes in enumerate(self.facts.classes):
            if not classes:
                yield from (f"{key}: expected no head of a forgotten task" for key in given & set(_of_head(task)))
            elif kept_head(self.model, self.facts, task) is None:
                yield from (
                    f"{key}: missing, and the model has no head of {len(classes)} classes for task {task}"
                    for key in sorted(set(_of_head(task)) - given)
                )

    def shapes(self, assign: bool) -> Iterator[str]:
        """Whether every tensor has the right shape and kind, and a row for every finished task if tasks have rows."""
        for name, module, own_name, tensor in [*names(self.model)]:
            if name.startswith("heads."):
                continue
            per_task = _has_rows(module, own_name)
            shape = (self.rows, *tensor.shape[1:]) if per_task else tuple(tensor.shape)
            value = self.state.get(name)
            if value is None:
                if per_task and len(tensor) != self.rows:
                    yield f"{name}: missing, and the model has {len(tensor)} rows for {self.rows} finished tasks"
                continue
            strict_dtype = assign and isinstance(module, Float32Module)
            yield from _misfit(name, value, shape, tensor, per_task, strict_dtype)
            if assign and tensor.is_meta != value.is_meta and weakref.getweakrefs(tensor):
                yield f"{name}: expected no optimizer that has claimed it, got one; make the optimizer after the load"
        for task, classes in enumerate(self.facts.classes):
            like = self.model.embeddings[0]
            for name, shape in zip(_of_head(task), [(len(classes), self.model.features), (len(classes),)], strict=True):
                if classes and name in self.state:
                    yield from _misfit(name, self.state[name], shape, like, False, False)
        yield from self._counts()

    def _counts(self) -> Iterator[str]:
        """Whether norms that get numbers of units from the state get all of them."""
        for path, norm in self.model.named_modules():
            if isinstance(norm, GatedNorm) and "count" not in norm.kept and f"{path}.count" in self.state:
                shapes = {"count": (), "count_initial": (), "count_tasks": (self.rows,)}
                for name, shape in shapes.items():
                    value = self.state.get(f"{path}.{name}")
                    if value is None:
                        yield f"{path}.{name}: missing beside {path}.count"
                    else:
                        like = torch.zeros((), dtype=torch.int64)
                        yield from _misfit(f"{path}.{name}", value, shape, like, name == "count_tasks", False)

    def values(self) -> Iterator[str]:
        """Whether the values that say what is locked are possible."""
        for name, module, own_name, _ in [*names(self.model)]:
            value = self.state.get(name)
            if value is None or value.is_meta:
                continue
            if isinstance(module, Gate) and own_name == "masks":
                yield from self._mask(name, value)
            elif isinstance(module, Gate) and own_name == "reserved" and not _is_binary(value):
                yield f"{name}: expected 0 and 1, got {_first_other(value)}"
            elif isinstance(module, Gate) and own_name == "origin" and not _is_order(value):
                yield f"{name}: expected each of 0 to {len(value) - 1} once"
            elif name == "state.scale" and not 0 < value.item() <= self.model.config.s_max * (1 + 1e-6):
                yield f"{name}: expected > 0 and at most s_max = {self.model.config.s_max}, got {value.item()}"

    def _mask(self, name: str, masks: Tensor) -> Iterator[str]:
        if self.model.config.mask_mode == "binary":
            if not _is_binary(masks):
                yield f"{name}: expected 0 and 1 in mode binary, got {_first_other(masks)}"
        elif not ((masks >= 0) & (masks <= 1)).all():
            yield f"{name}: expected values in [0, 1], got {masks[~((masks >= 0) & (masks <= 1))][0].item()}"
        if self.rows and masks[list(self.facts.forgotten)].any():
            yield f"{name}: expected no unit in the masks of forgotten tasks"

    def changes(self) -> Iterator[str]:
        """Whether finished tasks keep what they use, if the state does not bring all that belongs to tasks."""
        model, remembered = self.model, self.model.remembered if self.model.commits else ()
        absent = self._absent_of_tasks() if remembered else None
        if absent is None:
            return
        lacks = f"it lacks {absent}, so the finished tasks of the model stay; load a whole state, or one of this model"
        for task in remembered:
            if task >= self.facts.tasks or self.facts.classes[task] != model.classes[task]:
                yield f"{FACTS}: expected task {task} as the model has it: {lacks}"
                return
        locks = model.locks()
        constant = {*unlocked(model.body).values(), *(buffer for _, _, buffer in foreign(model.body).values())}
        for name, module, own_name, tensor in [*names(model)]:
            value = self.state.get(name)
            if value is None or value.is_meta or tensor.is_meta:
                continue
            value = value.to(tensor.device, tensor.dtype)
            if _has_rows(module, own_name):
                changed = any(not torch.equal(value[task], tensor[task]) for task in remembered)
            elif isinstance(module, Gate) and own_name == "reserved":
                changed = bool((value < tensor).any())
            elif (lock := locks.get(tensor)) is not None:
                changed = bool(((value.view_as(tensor) != tensor) & (rate(lock, tensor) == 0)).any())
            else:
                of_head = name.startswith("heads.") and int(name.split(".")[1]) in remembered
                changed = (of_head or tensor in constant) and not torch.equal(value.view_as(tensor), tensor)
            if changed:
                yield f"{name}: the state changes what finished tasks use, and {lacks}"

    def _absent_of_tasks(self) -> str | None:
        """The first name that belongs to tasks and that the state lacks; None if it has all of them.

        Only a whole state may take finished tasks away, so then everything belongs to tasks.
        """
        facts = self.facts
        takes = any(task >= facts.tasks or not facts.classes[task] for task in self.model.remembered)
        shared = [(name, module, own_name) for name, module, own_name, _ in names(self.model)]
        of_tasks = [FACTS, *(name for name, module, own_name in shared if takes or _has_rows(module, own_name))]
        of_tasks = [name for name in of_tasks if not name.startswith("heads.")]
        of_tasks += [name for task, classes in enumerate(self.facts.classes) if classes for name in _of_head(task)]
        return next((name for name in of_tasks if name not in self.state), None)


def kept_head(model: Network, facts: Facts, task: int) -> nn.Module | None:
    """The head of the model that fits the classes of a task after the load; None if a new one must be made."""
    head, classes = model.heads[task] if task < len(model.heads) else None, len(facts.classes[task])
    if not isinstance(head, nn.Linear):
        return head if head is not None and not classes else None
    return head if head.out_features == classes else None


def _of_head(task: int) -> list[str]:
    """The names of the tensors of a head."""
    return [f"heads.{task}.weight", f"heads.{task}.bias"]


def _has_rows(module: nn.Module, name: str) -> bool:
    """Whether a tensor has a row for every finished task."""
    if isinstance(module, Gate):
        return name == "masks"
    return isinstance(module, PerTask) and name in {f"{kept}_tasks" for kept in module.kept}


def _misfit(
    name: str, value: Tensor, shape: tuple[int, ...], like: Tensor, per_task: bool, strict_dtype: bool
) -> Iterator[str]:
    """Whether a value has the expected shape, and the kind of number of `like`, or its very dtype if `strict_dtype`."""
    got, one_number = tuple(value.shape), shape == () and value.shape == (1,)  # as torch has it
    if got != shape and not one_number:
        rows = f", one row for each of {shape[0]} finished tasks" if per_task else ""
        yield f"{name}: size mismatch, expected {shape}{rows}, got {got}"
    elif _kind(value.dtype) != _kind(like.dtype) or (strict_dtype and value.dtype != like.dtype):
        yield f"{name}: expected {like.dtype}, got {value.dtype}"
    elif value.is_meta and not like.is_meta:
        yield f"{name}: expected values, got a tensor on the meta device"


def _kind(dtype: torch.dtype) -> str:
    """Floating-point and integer values may be cast to others of their kind."""
    if dtype.is_floating_point:
        return "floating-point"
    return str(dtype) if dtype.is_complex or dtype == torch.bool else "integer"


def _is_binary(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _first_other(values: Tensor) -> float:
    return values[(values != 0) & (values != 1)][0].item()


def _is_order(origin: Tensor) -> bool:
    return torch.equal(origin.sort().values.cpu(), torch.arange(len(origin), dtype=origin.dtype))
