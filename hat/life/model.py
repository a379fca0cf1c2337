"""A network that learns one task after another."""

from __future__ import annotations

import copy
import json
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.network import moving
from hat.network.heads import facts, fitting
from hat.network.interrupt import interrupt_waits
from hat.network.mixing import mixed
from hat.network.network import Network
from hat.resizing.grow import grow_to
from hat.units.locks import gates, unlocked
from hat.warnings import CapacityWarning


class TaskParameters(list[nn.Parameter]):
    """The parameters of a task, in a list that knows its model, so that an optimizer can find the locks."""

    def __init__(self, parameters: list[nn.Parameter], model: HATModel) -> None:
        super().__init__(parameters)
        self.model = model


class HATModel(Network):
    """A gated network with one ungated linear head per task, and the life of its tasks (Serrà et al., ICML 2018).

    For the arguments, the attributes and what is raised see `Network`. Parameters along no gate, and buffers, belong to
    all tasks: they stay as the first task leaves them. The tensors of a `PerTask` are each task's own.
    """

    @property
    def reads_features_alone(self) -> bool:
        """Nothing but a head reads what the body answers: `forward` is that of this class."""
        return type(self).forward is HATModel.forward

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
        self.look_again()
        self._warn_if_full()
        self.heads.append(self._draw_head(len(names)))
        self.classes.append(names)
        self.learning, self.mixes = True, None
        self.freeze()  # before the first task, too, where something is reserved
        for part in self.parts():
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
        self.state.anneal(progress)

    def penalty(self) -> Tensor:
        """`R = sum over gates sum_i a_i free_i / sum over gates sum_i free_i`, Serrà et al. 2018, eq. 4 and 5.

        Returns:
            0-d float32, differentiable in the embeddings; 0 where no unit of the network is free.

        Raises:
            RuntimeError: no task is being learned.
        """
        self.require_learning("penalty")
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
        self.require_learning("task_parameters")
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
            for part in self.parts():
                part.commit()
            self.learning, self.mixes = False, None
            self.freeze()
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
        self.freeze()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of `torch.nn.Module`, but a state that does not fit leaves the model as it was.

        Of a model that has been grown, it makes this one grow as far, see `hat.grow`.

        Raises:
            RuntimeError: names are missing or unexpected (`strict`), or shapes differ.
        """
        grown = copy.deepcopy(self) if (longer := self._longer_in(state_dict)) else None
        if grown is not None and grow_to(grown, longer):
            grown.load_state_dict(state_dict, strict, assign)  # what fails does so here
            grow_to(self, longer)
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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make as many heads as the state has before they are loaded."""
        self.heads = fitting(self.heads, state_dict, prefix, self._make_head)
        self.mixes = None
        super()._load_from_state_dict(state_dict, prefix, *args)

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

    def _resolve(self, task: int | None) -> int:
        if task is None:
            if not self.learning:
                raise RuntimeError("task: expected one, as no task is being learned, got None")
            return self.task
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"task: expected an int or a tensor of ids, got {type(task).__name__}")
        return self.check_task(task)

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
