"""A network that learns one task after another."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.arguments import check_arguments, check_switch, got
from hat.life import loading
from hat.life.facts import Facts
from hat.network import moving, seals
from hat.network.frozen import keep_frozen_in_place
from hat.network.heads import make_head
from hat.network.interrupt import interrupt_waits
from hat.network.mixing import mixed
from hat.network.network import Network
from hat.network.replicas import agree_to_begin, agree_to_end, share_beginning
from hat.network.verdict import ForgettingError, Verification
from hat.text import dotted
from hat.warnings import CapacityWarning

_MOST_CLASSES = 2**20
"""A larger number of classes is a mistake: their names alone would fill the memory."""


class TaskParameters(list[nn.Parameter]):
    """The parameters of a task: a list that knows its model, so that an optimizer can find the locks.

    Attributes:
        model: the model.
    """

    def __init__(self, parameters: list[nn.Parameter], model: HATModel) -> None:
        check_arguments(TaskParameters, locals())
        super().__init__(parameters)
        self.model = model


class HATModel(Network):
    """A gated network that learns one task after another and forgets none (Serrà et al., ICML 2018).

    Every task goes through `begin_task`, training with `anneal` and `penalty`, and `end_task`. Parameters along no
    gate, and buffers, belong to all tasks: they stay as the first task leaves them. A `PerTask` module has tensors of
    its own for each task.

    Args:
        body: maps an input to features [B, ..., features] through gated layers.
        features: the width of the features; by default what a converted body says, or the units of `outputs`, or the
            units of the last gate in the order of the modules.
        outputs: the gate whose units the features are, channel-major if each unit is several features in a row; by
            default the gate at the end of a converted body. If no gate is known, its units keep their places.
        config: how gates are learned and committed; by default `GateConfig()`.
        process_group: the processes that hold the same model and call `begin_task`, `end_task`, `hat.forget` and
            `hat.grow` together. `"default"`: all processes, if `torch.distributed` is initialised at the time of the
            call; a process group of `torch.distributed`; or None: this process has the model for itself. A copy has the
            same group. In a pickle, and so after `torch.load` of a whole model, a group is `"default"`. The attribute
            `process_group` can be set later.

    Attributes:
        heads: one linear layer per task; a module without tensors for a forgotten task.
        classes: the names of every task's classes; no names for a forgotten task.
        learning: a task has begun and not ended. For the other attributes see `Network`.

    Raises:
        TypeError: a parameter is spread over several processes, as by `fully_shard`; `process_group` is no group; or an
            argument is of another class than annotated.
        ValueError: the body has no gate; or it has running statistics that no task could keep for itself, see
            `hat.HATBatchNorm2d`; or `outputs` is no gate of the body, or its units do not divide the features; or this
            process is not in the group.
    """

    @property
    def reads_features_alone(self) -> bool:
        """Whether only heads read the output of the body. A subclass with another `forward` may read it, too."""
        return type(self).forward is HATModel.forward

    def begin_task(self, classes: int | Sequence[str]) -> int:
        """Start to learn a task.

        Every gate draws a fresh embedding, the tensors of the task's own get their initial values, the task gets a new
        head, and the model goes to training mode.

        With a process group, all its processes call this together, and the values of its first process are everyone's:
        embeddings, head and first per-task values, and all parameters and buffers before the first task.

        Args:
            classes: the number of classes, or their names.

        Returns:
            The id of the task: 0, 1, ...

        Raises:
            RuntimeError: another task is being learned.
            TypeError: `classes` is neither a number nor a sequence of names.
            ValueError: there is no class, there are more than a million, or two classes have the same name.
            RuntimeError: another process does not come within the timeout of the group, calls something else, or has
                other values in what finished tasks have trained. The message names the process and the tensor. The
                task has not begun then, in no process.
        """
        names = agree_to_begin(self, lambda: self._check_begin(classes))
        self.look_again()
        self._warn_if_full()
        head = self._draw_head(len(names))
        for part in self.parts():
            part.begin_task()
        share_beginning(self, head)
        with interrupt_waits():  # a head of a task that does not learn would count as that of a finished task
            self.heads.append(head)
            self.classes.append(names)
            self.learning = True
            if not self._remembers:
                keep_frozen_in_place(self.gates.values())
            self.freeze_more()  # needed before the first task, too, if units are reserved
            if self.sealed is None:  # reserved units, or an operation that an error has ended
                seals.seal(self)
            self.train()
        return self.task

    def anneal(self, progress: float) -> None:
        """Set the scale for a batch: `s = 1/s_max + (s_max - 1/s_max) progress`, Serrà et al. 2018, eq. 3.

        Args:
            progress: `(b - 1) / (B - 1)` in [0, 1] for batch b of B in an epoch; 1 if B = 1.

        Raises:
            ValueError: `progress` is not in [0, 1].
        """
        if type(progress) is not float or not 0 <= progress <= 1:  # refuses NaN, too
            _check_progress(progress)
        self.state.set_progress(progress)

    def penalty(self) -> Tensor:
        """`R = sum over gates sum_i a_i free_i / sum over gates sum_i free_i`, Serrà et al. 2018, eq. 4 and 5.

        Returns:
            0-d float32 in [0, 1], differentiable in the embeddings. It is 0 if no unit of the network is free.

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
        """The parameters that the current task may train: shared parameters, embeddings and the current head.

        Raises:
            RuntimeError: no task is being learned.
        """
        self.require_learning("task_parameters")
        shared = [p for p in self.body.parameters() if p.requires_grad and id(p) not in self.frozen.parameters]
        return TaskParameters([*shared, *self.head.parameters()], self)

    def end_task(self) -> int:
        """Finish the current task.

        The masks are committed, the weights between used units are locked, used units move to the front, the head is
        frozen, and the model goes to evaluation mode.

        Units that move take their weights, gradients and optimizer states along; see `hat.network.moving`.
        `Gate.origin` says where each unit lay at first. No unit moves if `GateConfig.locked_first` is off.

        With a process group, all its processes call this together, with the same parameters. Running statistics, which
        every process has from its own samples, are taken from the first process.

        Returns:
            The id of the task that ended.

        Raises:
            RuntimeError: no task is being learned.
            ValueError: an embedding, a weight or a statistic is not finite. No mask is committed then.
            RuntimeError: another process of the group does not come within the timeout of the group, calls something
                else, or has another parameter, mask or order of units. The message names the process and the tensor. No
                process commits a mask then.

        Warns:
            DriftWarning: something that earlier tasks use has moved since the last task ended; see `moved`. The task
                ends all the same.
        """
        task, head = agree_to_end(self, self._check_end), self.head
        used_before = {gate: gate.used > 0.5 for gate in self.gates.values()}
        blocks_before = self.blocks()
        # A half-moved network would compute another function.
        with interrupt_waits(), seals.opened(self, 2, appends=self.config.mask_mode == "binary"):
            for part in self.parts():
                part.commit()
            self.learning = False
            self.freeze_more(head)
            self.frozen.switch_off()
            self.eval()
            moving.move(self, used_before if self.config.locked_first else {}, blocks_before)
        for name, gate in self.gates.items():
            if not (gate.masks[-1] > 0.5).any():
                warnings.warn(f"task {task} uses no unit of {name}", CapacityWarning, stacklevel=2)
        return task

    def moved(self) -> str | None:
        """Compare everything that finished tasks use with its seals, see `hat.network.seals`.

        A model remembers that something has moved, also in its `state_dict`, until it forgets all tasks or loads
        another state.

        Returns:
            The name of the first tensor that has moved since it was locked; None if nothing has moved.
        """
        return seals.moved(self)

    def state_dict(self, *args: Any, verify: bool = False, **kwargs: Any) -> Any:
        """The state, see `torch.nn.Module.state_dict`.

        Args:
            *args: as of torch.
            verify: first compare what finished tasks use with its seals, see `moved`.
            **kwargs: as of torch.

        Raises:
            ForgettingError: with `verify`, something has moved.
        """
        check_switch("verify", verify)
        if verify and (name := self.moved()) is not None:
            found = Verification({}, *seals.described(self, name))
            raise ForgettingError(f"state_dict: expected nothing to have moved, got {found}", found)
        return super().state_dict(*args, **kwargs)

    def forward(self, x: Tensor, task: int | Tensor | None = None) -> Tensor:
        """The logits of one task, or of a batch that mixes tasks.

        In a mixed batch, each row has the logits of its own task, to rounding. All rows are as wide as the widest head
        among the tasks in the batch; a task with fewer classes has `-inf` behind its logits.

        The first mixed batch of a shape checks whether one pass through the body gives the right answer; see `mixes`.
        If it does, the features have the same bits as in a batch of one task, unless the body has norms. If it does not
        (as when windows of an image become samples), each task passes through the body by itself, with the bits of
        `model(x[task == t], task=t)`. A tensor `task` with one id only gives the bits of `model(x, task=t)`.

        Args:
            x: [B, ...], the input of the body; or a tuple of tensors, if the body takes a tuple.
            task: the id of a finished task or of the task that is being learned; by default the latter. Or [B] int64,
                the id of a finished task for every sample, in training mode, too. The tensor may be on any device; the
                host reads it, so it waits for a GPU.

        Returns:
            [B, ..., classes].

        Raises:
            RuntimeError: no task is being learned and `task` is None.
            TypeError: `task` is neither an int nor a tensor of integers.
            ValueError: there is no such task, the task is forgotten, or a task of a mixed batch is not finished; `task`
                does not have one id for every sample; or the body gives another number of features than `features`.
        """
        if self.unfinished is not None:
            self.unfinished()
        if isinstance(task, Tensor):
            return mixed(self, x, task)
        return self.answer(x, self._resolve(task))

    def get_extra_state(self) -> Tensor:
        """All state that is not a tensor, as JSON in a uint8 tensor, so that a `state_dict` holds tensors only."""
        if self.unfinished is not None:
            self.unfinished()
        return Facts.of(self).written()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state that `get_extra_state` has written."""
        facts = Facts.read(state)
        self.learning, self.classes, self._forgotten = facts.learning, list(facts.classes), set(facts.forgotten)
        self.sealed, self.drifted = facts.sealed, facts.drifted

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state, see `torch.nn.Module.load_state_dict`. A state that does not fit leaves the model unchanged.

        All of this holds for the `load_state_dict` of any module that has this model inside, too.

        - If the state is of a model that has been grown with `hat.grow`, this model grows to the same numbers of units.
        - With `strict=False`, everything that the state lacks stays as it is: heads, classes, masks, and all others. If
          the state does not bring all that belongs to tasks, the finished tasks of this model stay, and the state may
          not change what they use.
        - Parameters stay the same objects, with `assign=True`, too: they take the memory, dtype and device of the
          state. So optimizers that were made before go on, with the states that they have.
        - A parameter that the user has frozen stays frozen.

        Raises:
            RuntimeError: names are missing or unexpected (if `strict`), or shapes differ, or parts of the state
                contradict each other or what the model keeps. Parts are the facts about tasks, the masks, the heads,
                what each task has of its own, the order of units, and what is reserved.

        Warns:
            DriftWarning: a tensor that finished tasks use is not the one that was sealed, see `moved`.
        """
        check_arguments(HATModel.load_state_dict, locals())
        with interrupt_waits():
            try:
                return super().load_state_dict(state_dict, strict, assign)
            except BaseException:
                loading.undo(self)
                raise

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Check the state and fit the model to it, behind hooks of the user that rename parts of the state."""
        loads: list[loading.Load | None] = []

        def begin(model: HATModel, *_: Any) -> None:
            loads.append(loading.begin(model, state_dict, prefix, local_metadata, error_msgs))

        handle = self.register_load_state_dict_pre_hook(begin)
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        finally:
            handle.remove()
        for load in loads:
            if load is not None:
                load.complete()

    def _check_begin(self, classes: int | Sequence[str]) -> tuple[str, ...]:
        """The names of the classes of a task that may begin now. For the errors see `begin_task`."""
        if self.unfinished is not None:
            self.unfinished()
        if self.learning:
            raise RuntimeError(f"begin_task: task {self.task} is still being learned; call end_task() first")
        if any(gate.state is not self.state for gate in self.gates.values()):
            raise RuntimeError(
                "begin_task: expected the body for this model alone, got one that another HATModel has taken; "
                "give every model a body of its own"
            )
        return _names(classes)

    def _check_end(self) -> int:
        """The id of the current task, if it may end now. For the errors see `end_task`."""
        task = self.task
        self._check_finite()
        return task

    def _check_finite(self) -> None:
        """Refuse to commit a task with NaN or inf, which would be locked and reach every task, as 0 * NaN is NaN.

        Raises:
            ValueError: names the first tensor that is not finite.
        """
        learned = [
            (dotted(path, name), p)
            for path, module in self.named_modules_in_use()
            for name, p in module.named_parameters(recurse=False)
            if p.requires_grad and id(p) not in self.frozen.parameters
        ]
        current_of_task = [
            (dotted("body", path, name), values)
            for path, module in self._per_task.items()
            for name, values in module.current()
        ]
        for name, values in (*learned, *current_of_task):
            if not torch.isfinite(values).all():
                raise ValueError(f"{name}: expected finite values, got inf or NaN; task not committed")

    def _draw_head(self, classes: int) -> nn.Linear:
        head = make_head(self, classes)
        if self.outputs is not None:  # the first weights of a unit do not depend on its place
            places = moving.expanded(self.outputs.origin, self.features // self.outputs.units)
            with torch.no_grad():
                head.weight.copy_(head.weight[:, places])
        return head

    def _resolve(self, task: int | None) -> int:
        """The id of a task that exists; by default the task that is being learned."""
        if task is None:
            if not self.learning:
                raise RuntimeError("task: expected the id of a task, as no task is being learned, got None")
            return self.task
        return self.check_task(task, expected="an int or a tensor of ids")

    def _warn_if_full(self) -> None:
        """Warn about gates without a free unit, which cannot learn anything new."""
        full = [name for name, gate in self.gates.items() if not gate.free.any()]
        if len(full) == len(self.gates) and any(gate.reserves for gate in self.gates.values()):
            return  # a pretrained network that the user has locked
        if len(full) == len(self.gates):
            warnings.warn(
                "capacity is exhausted: no unit of the network is free, so the new task learns a head only",
                CapacityWarning,
                stacklevel=3,
            )
        elif full:
            warnings.warn(f"no free unit left in {', '.join(full)}", CapacityWarning, stacklevel=3)


def _names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """The names of the classes: `classes` itself, or "0", "1", ... if it is a number.

    Raises:
        TypeError, ValueError: as of `HATModel.begin_task`.
    """
    wrong = TypeError(f"classes: expected a number or a sequence of names, got {got(classes)}")
    if isinstance(classes, bool | str | bytes):
        raise wrong
    given: Iterable[Any]
    try:
        given = range(min(operator.index(classes), _MOST_CLASSES + 1))  # type: ignore[arg-type]
    except TypeError:
        try:
            given = tuple(classes)  # type: ignore[arg-type]
        except TypeError:
            raise wrong from None
    if not all(isinstance(name, str | Integral) for name in given):
        raise wrong
    names = tuple(map(str, given))
    if len(names) > _MOST_CLASSES:
        raise ValueError(f"classes: expected at most {_MOST_CLASSES:,}, got {got(classes)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"classes: expected at least one class and no name twice, got {got(classes)}")
    return names


def _check_progress(progress: Any) -> None:
    """Refuse a progress that is not a number in [0, 1]; a 0-d tensor is a number."""
    number = isinstance(progress, Tensor) or (isinstance(progress, Real) and not isinstance(progress, bool))
    if not number:
        raise ValueError(f"progress: expected in [0, 1], got {got(progress)}")
    if isinstance(progress, Tensor) and (progress.dim() or progress.is_complex() or progress.is_meta):
        raise ValueError(f"progress: expected a number in [0, 1], got {got(progress)}")
    value: Any = progress
    if not 0 <= value <= 1:  # refuses NaN, too
        raise ValueError(f"progress: expected in [0, 1], got {got(progress)}")
