"""A network that learns one task after another."""

from __future__ import annotations

import copy
import json
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.network import moving
from hat.network.copying import copied
from hat.network.heads import facts, fitting
from hat.network.interrupt import interrupt_waits
from hat.network.mixing import mixed
from hat.units import buffers
from hat.units.blocks import Block
from hat.units.gate import Gate
from hat.units.locks import frozen_lock, gates, locks, sides, unlocked
from hat.units.per_task import PerTask, per_task
from hat.units.state import GateConfig, State
from hat.units.wired import Wired
from hat.warnings import CapacityWarning, UnlockedWarning
from hat_kernels import Lock
from hat_kernels.gradient_memory import release


class TaskParameters(list[nn.Parameter]):
    """The parameters of a task, in a list that knows its model, so that an optimizer can find the locks."""

    def __init__(self, parameters: list[nn.Parameter], model: HATModel) -> None:
        super().__init__(parameters)
        self.model = model


class HATModel(nn.Module):
    """A gated network with one ungated linear head per task (Serrà et al., ICML 2018).

    Args:
        body: maps an input to features [B, features] through gated layers; see `hat.models`, `hat.chain`. Parameters
            along no gate, and buffers, belong to all tasks: they stay as the first task leaves them, but for those of a
            `PerTask`, of which every task has its own.
        features: the width of the features; by default what a converted body says, or that of the last gated layer.
        outputs: the gate whose units the features are, channel-major if each is several features in a row; by default
            the one at the end of a `hat.chain`. Where it is not known, its units keep their places.
        config: how gates are learned and committed; by default `GateConfig()`.

    Attributes:
        heads: one linear layer a task; of a forgotten one a module without tensors.
        classes: the names of every task's classes; none of a forgotten one.
        learning: a task has begun and not ended.
        mixes: the body takes a batch of several tasks in one pass; otherwise each task passes through it by itself.
            None: not known, as no such batch has come since the last task began or ended.

    Raises:
        ValueError: the body has no gate, or normalises by running statistics, which no task could keep for itself, see
            `hat.layers.norms`; or the units of `outputs` do not divide the features.
    """

    outputs: Gate | None

    def __init__(
        self,
        body: nn.Module,
        *,
        features: int | None = None,
        outputs: Gate | None = None,
        config: GateConfig | None = None,
    ) -> None:
        super().__init__()
        self.state = State(config)
        self.body = body
        self.heads = nn.ModuleList()
        self.classes: list[tuple[str, ...]] = []
        self.learning = False
        self._forgotten: set[int] = set()
        self._gates, self._per_task = gates(body), per_task(body)
        self._blocks: tuple[tuple[int, ...], dict[Tensor, list[Block]]] = ((), {})
        self.mixes: bool | None = None
        self._check_body()
        own = body.features if isinstance(body, Wired) else None
        self.features = next(n for n in (features, own, self._last_gate().units) if n is not None)
        self.__dict__["outputs"] = self._find_outputs(outputs)  # the body's, no module of this one
        for part in self._parts():
            part.share(self.state)

    # -- what is inside -------------------------------------------------------------------------------------------

    @property
    def config(self) -> GateConfig:
        return self.state.config

    @property
    def gates(self) -> dict[str, Gate]:
        """The gates by name, in the order of the body's modules, as of the last `begin_task`."""
        return self._gates

    @property
    def per_task(self) -> dict[str, PerTask]:
        """The modules with tensors of each task's own, by name, as of the last `begin_task`."""
        return self._per_task

    @property
    def tasks(self) -> int:
        """How many tasks are finished, those that were forgotten since among them: their ids are not given again."""
        return len(self.heads) - self.learning

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The ids of the tasks that `hat.forget` has removed, in order."""
        return tuple(sorted(self._forgotten))

    @property
    def remembered(self) -> tuple[int, ...]:
        """The ids of the finished tasks that are not forgotten, in order."""
        return tuple(task for task in range(self.tasks) if task not in self._forgotten)

    @property
    def task(self) -> int:
        """The id of the task that is being learned.

        Raises:
            RuntimeError: none is.
        """
        self._require_learning("task")
        return len(self.heads) - 1

    @property
    def head(self) -> nn.Linear:
        """The head of the task that is being learned."""
        head = self.heads[self.task]
        assert isinstance(head, nn.Linear)
        return head

    @property
    def reads_features_alone(self) -> bool:
        """Nothing but a head meets what the body answers: `forward` is that of this class."""
        return type(self).forward is HATModel.forward

    @property
    def embeddings(self) -> list[nn.Parameter]:
        """The embedding of every gate."""
        return [gate.embedding for gate in self.gates.values()]

    def locks(self) -> dict[Tensor, Lock | None]:
        """The lock of every shared parameter, None where nothing is locked; a frozen one has `requires_grad` False."""
        found = locks(self.body)
        return {p: lock if self._holds else None for p, lock in found.items()}

    def blocks(self) -> dict[Tensor, list[Block]]:
        """The parts of every shared parameter in which something may move."""
        # A step asks for them, and they change when a task ends. The key is all that they are made of.
        key = (self.tasks, *(number for gate in self.gates.values() for number in gate.identity()))
        if self._blocks[0] != key:
            found = sides(self.body).items()
            self._blocks = key, {p: side.blocks(p) if self._holds else [Block()] for p, side in found}
        return self._blocks[1]

    def active_locks(self) -> dict[Tensor, Lock]:
        """The locks that hold something back, with one that holds everything for each frozen parameter."""
        found = {p: lock for p, lock in self.locks().items() if lock is not None}
        return found | {p: frozen_lock(p) for p in self.frozen_parameters()}

    def frozen_parameters(self) -> list[nn.Parameter]:
        """What no task may train any more: finished heads and, after the first task, what lies along no gate."""
        heads = self.heads[: len(self.heads) - self.learning]
        loose = unlocked(self.body).values() if self._holds else ()
        return [*heads.parameters(), *loose]

    def capacity(self) -> dict[str, float]:
        """The share of used units in [0, 1] of every gate by name."""
        return {name: gate.used.mean().item() for name, gate in self.gates.items()}

    # -- the life of a task ---------------------------------------------------------------------------------------

    def begin_task(self, classes: int | Sequence[str]) -> int:
        """Start to learn a task: a fresh embedding at every gate, initial values of its own, a new head, training mode.

        Args:
            classes: the number of classes, or their names.

        Returns:
            The task's id: 0, 1, ...

        Raises:
            RuntimeError: another task is being learned.
            TypeError: `classes` is neither a number nor a sequence of names.
            ValueError: there is no class, or two have one name.
        """
        if self.learning:
            raise RuntimeError(f"begin_task: task {self.task} is still being learned; call end_task() first")
        names = _names(classes)
        self._gates, self._per_task, self._blocks = gates(self.body), per_task(self.body), ((), {})
        self._warn_if_full()
        self.heads.append(self._draw_head(len(names)))
        self.classes.append(names)
        self.learning, self.mixes = True, None
        self._freeze()  # before the first task, too, where something is reserved
        for part in self._parts():
            part.begin_task()
        return self.train().task

    def anneal(self, progress: float) -> None:
        """Set the scale for a batch: `s = 1/s_max + (s_max - 1/s_max) progress`, Serrà et al. 2018, eq. 3.

        Args:
            progress: of the batch in its epoch, `(b - 1) / (B - 1)` in [0, 1]; 1 where B = 1.

        Raises:
            ValueError: `progress` is not in [0, 1].
        """
        if not 0 <= progress <= 1:  # a NaN fails this too
            raise ValueError(f"progress: expected in [0, 1], got {progress}")
        self.state.set_progress(progress)

    def penalty(self) -> Tensor:
        """`R = sum over gates sum_i a_i free_i / sum over gates sum_i free_i`, Serrà et al. 2018, eq. 4 and 5.

        Returns:
            0-d float32, differentiable in the embeddings; 0 where no unit of the network is free.

        Raises:
            RuntimeError: no task is being learned.
        """
        self._require_learning("penalty")
        gates = list(self.gates.values())
        return hat_kernels.penalty(
            [gate.embedding for gate in gates],
            [gate.free for gate in gates],
            self.state.scale,
            s_max=self.config.s_max,
            compensation=self.config.compensation,
        )

    def task_parameters(self) -> TaskParameters:
        """All that this task may train: shared parameters, embeddings and the current head.

        Raises:
            RuntimeError: no task is being learned.
        """
        self._require_learning("task_parameters")
        shared = [p for p in self.body.parameters() if p.requires_grad]
        return TaskParameters([*shared, *self.head.parameters()], self)

    def end_task(self) -> int:
        """Commit the masks, lock what they use, move it to the front, freeze the head, and go to evaluation mode.

        Unless `GateConfig.locked_first` is off, units change places, and so do the weights, gradients and states of
        optimizers that belong to them; see `hat.network.moving`. `Gate.origin` tells where a unit came from.

        Returns:
            The id of the task that ended.

        Raises:
            RuntimeError: no task is being learned.
            ValueError: an embedding, a weight or a statistic is not finite; nothing is committed.
        """
        task = self.task
        self._check_finite()
        stay = {gate: gate.used > 0.5 for gate in self.gates.values()}
        before = self.blocks()
        with interrupt_waits():  # half moved, the network would be another function
            for part in self._parts():
                part.commit()
            self.learning, self.mixes = False, None
            self._freeze()
            self.eval()
            moving.move(self, stay if self.config.locked_first else {}, before)
        for name, gate in self.gates.items():
            if not (gate.masks[-1] > 0.5).any():
                warnings.warn(f"task {task} uses no unit of {name}", CapacityWarning, stacklevel=2)
        return task

    def forward(self, x: Tensor, task: int | Tensor | None = None) -> Tensor:
        """The logits [B, classes] of one task, or of a task a sample.

        With a task a sample, row b is what its task answers, to rounding, as wide as the widest head among the tasks
        present: `-inf` where a task has fewer classes. The batch takes one pass through the body if it can, which the
        first such batch tries (`mixes`): the features have the same bits then as where all of the batch is of one task,
        unless a norm comes in between. If it cannot, as where windows of an image become samples, each task passes by
        itself, with the bits of `model(x[task == t], task=t)`. A batch of one task has the bits of `model(x, task=t)`.

        Args:
            x: [B, ...], what the body takes; or a tuple of tensors, if it does.
            task: a finished task or the one that is being learned, by default that; or [B] int64, a finished task a
                sample, in training mode too, on any device: the host reads it, so on a GPU it waits, if the ids are
                there.

        Raises:
            RuntimeError: no task is being learned and `task` is None.
            TypeError: `task` is neither an int nor a tensor of integers.
            ValueError: there is no such task, it is forgotten, or one of a batch is not finished; there is not one a
                sample; or the body's features are not as many as `features` says.
        """
        if isinstance(task, Tensor):
            return mixed(self, x, task)
        return self.answer(x, self._resolve(task))

    def answer(self, x: Any, task: int) -> Tensor:
        """`forward` for a task that is known to exist."""
        found: Tensor = self.heads[task](self.features_of(x, self._gate_task(task)))
        return found

    def features_of(self, x: Any, task: int | Tensor | str | None) -> Tensor:
        """What the body answers, [B, ..., features], with gates for `task`; see `State.task`.

        Raises:
            ValueError: the features are not as many as `features` says.
        """
        self.state.task = task
        try:
            with buffers.frozen(self.body) if self._keeps_buffers() else nullcontext():
                features: Tensor = self.body(x)
        finally:
            self.state.task = None
        if features.shape[-1] != self.features:
            raise ValueError(f"features: expected {self.features} from the body, got {features.shape[-1]}")
        return features

    def check_finished(self, tasks: Iterable[int]) -> None:
        """Refuse a task that is not finished, or forgotten.

        Raises:
            ValueError: names the first.
        """
        for task in tasks:
            if not 0 <= task < self.tasks:
                known = f"0 to {self.tasks - 1}" if self.tasks else "of which there are none"
                raise ValueError(f"task: expected finished tasks, {known}, got {task}")
            if task in self._forgotten:
                raise ValueError(f"task: expected a task that is not forgotten, got {task}")

    # -- saving ---------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """What is not a tensor, as JSON in a uint8 tensor, so that a state_dict holds tensors only."""
        known = {"learning": self.learning, "classes": self.classes, "forgotten": self.forgotten}
        return torch.frombuffer(bytearray(json.dumps(known).encode()), dtype=torch.uint8).clone()

    def set_extra_state(self, state: Tensor) -> None:
        known = facts(state)
        self.learning = bool(known["learning"])
        self.classes = [tuple(names) for names in known["classes"]]
        self._forgotten = set(known.get("forgotten", ()))  # not in a state of a version that forgot none
        for parameter in [*self.heads.parameters(), *unlocked(self.body).values()]:
            parameter.requires_grad_(True)  # what was frozen before the load may be learning after it
        self._freeze()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of `torch.nn.Module`, but a state that does not fit leaves the model as it was.

        Of a model that has been grown, it makes this one grow as far, see `hat.grow`.

        Raises:
            RuntimeError: names are missing or unexpected (`strict`), or shapes differ.
        """
        grown = copy.deepcopy(self) if (longer := self._longer_in(state_dict)) else None
        if grown is not None and self._grows(grown, longer):
            grown.load_state_dict(state_dict, strict, assign)  # what fails does so here
            self._grows(self, longer)
        before = {name: value.clone() for name, value in self.state_dict().items()}
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except Exception:
            super().load_state_dict(before)
            raise

    def _longer_in(self, state_dict: Mapping[str, Any]) -> dict[str, int]:
        """The gates that have more units in a state than here, and how many."""
        found = {}
        for name, gate in gates(self.body).items():
            embedding = state_dict.get(f"body.{name}.embedding" if name else "body.embedding")
            if isinstance(embedding, Tensor) and embedding.dim() == 1 and len(embedding) > gate.units:
                found[name] = len(embedding)
        return found

    @staticmethod
    def _grows(model: HATModel, units: Mapping[str, int]) -> bool:
        from hat.resizing.grow import grow_to  # which resizes models

        return grow_to(model, units)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make as many heads as the state has before they are loaded."""
        self.heads = fitting(self.heads, state_dict, prefix, self._make_head)
        self.mixes = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def _remembers(self) -> bool:
        """A finished task is not forgotten."""
        return self.tasks > len(self._forgotten)  # a step asks: it does not go through the tasks

    @property
    def _holds(self) -> bool:
        """Something is locked: by a finished task, or by what the network was trained for before it came here."""
        return self._remembers or any(gate.reserves for gate in self.gates.values())

    # -- helpers --------------------------------------------------------------------------------------------------

    def _check_body(self) -> None:
        if not self.gates:
            raise ValueError("body: expected at least one gated layer or hat.Gate, got none")
        for name, module in self.body.named_modules():
            if getattr(module, "running_mean", None) is not None and not isinstance(module, PerTask):
                raise ValueError(
                    f"body.{name}: expected no {type(module).__name__}: its statistics would be shared by all tasks, "
                    "and every task would change the earlier ones; use hat.HATBatchNorm2d and the like, or hat.convert"
                )
        loose = unlocked(self.body)
        if loose:
            warnings.warn(
                f"along no gate, so frozen when the first task ends: {', '.join(loose)}",
                UnlockedWarning,
                stacklevel=3,
            )

    def _keeps_buffers(self) -> bool:
        """What a module counts or averages while it trains would change the finished tasks."""
        return self.training and self._remembers

    def _gate_task(self, task: int) -> int | str | None:
        """What `State.task` must be for the gates to answer for a task."""
        return None if self.learning and task == self.task else task

    def _check_finite(self) -> None:
        """A NaN would be locked and reach every task: 0 * NaN is NaN."""
        learned = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        own = [
            (f"body.{path}.{name}" if path else f"body.{name}", values)
            for path, module in self._per_task.items()
            for name, values in module.current()
        ]
        for name, values in (*learned, *own):
            if not torch.isfinite(values).all():
                raise ValueError(f"{name}: expected finite values, got inf or NaN; task not committed")

    def _parts(self) -> list[Gate | PerTask]:
        """What begins and commits tasks."""
        return [*self.gates.values(), *self._per_task.values()]

    def _last_gate(self) -> Gate:
        return list(self.gates.values())[-1]

    def _find_outputs(self, outputs: Gate | None) -> Gate | None:
        """The gate whose units the features are."""
        if outputs is not None:
            if self.features % outputs.units:
                raise ValueError(f"outputs: expected units that divide {self.features} features, got {outputs.units}")
            return outputs
        tail = self.body.tail if isinstance(self.body, Wired) else None
        if tail is None or self.features % tail.gate.units:
            return None
        flat = tail.layout == "flat" or (tail.layout == "last" and self.features == tail.gate.units)
        return tail.gate if flat else None

    def _make_head(self, classes: int) -> nn.Linear:
        embeddings = {id(embedding) for embedding in self.embeddings}  # float32 whatever the body is
        like = next((p for p in self.body.parameters() if id(p) not in embeddings), self.embeddings[0])
        return nn.Linear(self.features, classes, device=like.device, dtype=like.dtype)

    def _draw_head(self, classes: int) -> nn.Linear:
        head = self._make_head(classes)
        if self.outputs is not None:  # the same for a unit wherever it has been moved to
            places = moving.expanded(self.outputs.origin, self.features // self.outputs.units)
            with torch.no_grad():
                head.weight.copy_(head.weight[:, places])
        return head

    def _freeze(self) -> None:
        """No gradient for what is frozen, and none left over: weight decay and momentum would follow it.

        The memory that waits for the next gradients goes too.
        """
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in self.body.parameters():
            release(parameter)

    def __deepcopy__(self, memo: dict[int, Any]) -> HATModel:
        found: HATModel = copied(self, memo)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": ((), {})}  # known by addresses, which are others in a copy

    def _resolve(self, task: int | None) -> int:
        if task is None:
            if not self.learning:
                raise RuntimeError("task: expected one, as no task is being learned, got None")
            return self.task
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"task: expected an int or a tensor of ids, got {type(task).__name__}")
        if not 0 <= task < len(self.heads):
            raise ValueError(f"task: expected 0 to {len(self.heads) - 1}, got {task}")
        if task in self._forgotten:
            raise ValueError(f"task: expected a task that is not forgotten, got {task}")
        return task

    def _require_learning(self, what: str) -> None:
        if not self.learning:
            raise RuntimeError(f"{what}: no task is being learned; call begin_task() first")

    def _warn_if_full(self) -> None:
        full = [name for name, gate in self.gates.items() if not gate.free.any()]
        if len(full) == len(self.gates) and any(gate.reserves for gate in self.gates.values()):
            return  # a pretrained network that is locked: as the user wants it
        if len(full) == len(self.gates):
            warnings.warn(
                "capacity is exhausted: no unit of the network is free, the new task learns a head only",
                CapacityWarning,
                stacklevel=3,
            )
        elif full:
            warnings.warn(f"no free unit left in {', '.join(full)}", CapacityWarning, stacklevel=3)


def _names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """The names of the classes; numbers where only their count is given."""
    if isinstance(classes, bool | str):
        raise TypeError(f"classes: expected a number or a sequence of names, got {classes!r}")
    try:
        names = tuple(map(str, range(operator.index(classes))))  # type: ignore[arg-type]
    except TypeError:
        if not isinstance(classes, Iterable):
            raise TypeError(f"classes: expected a number or a sequence of names, got {classes!r}") from None
        names = tuple(map(str, classes))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"classes: expected at least one, each once, got {classes!r}")
    return names
