"""A gated network with a head for every task: what layers, gates and other rooms need to know of a model.

`hat.HATModel` adds the life of tasks: begin, anneal, penalty, end, load.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hat.arguments import check_arguments, check_whole, got
from hat.network import data_parallel, unshared
from hat.network.copying import copied
from hat.network.frozen import Frozen, keep_frozen_in_place
from hat.network.processes import Processes, ProcessGroup
from hat.network.sharded import refuse_sharded
from hat.network.turns import turn
from hat.units.blocks import Block, Sides
from hat.units.buffers import Pass, frozen
from hat.units.gate import Gate
from hat.units.locks import frozen_lock, gates, locks, sides, unlocked
from hat.units.per_task import PerTask, per_task
from hat.units.state import LEARNING, Answer, Finished, GateConfig, State
from hat.units.wired import Wired
from hat.warnings import UnlockedWarning
from hat_kernels import Lock
from hat_kernels.gradient_memory import release


class Network(nn.Module):
    """A body of gated layers and one ungated head per task.

    For the arguments and the errors see `hat.HATModel`, the class that users make.

    Attributes:
        state: what all gates share.
        body: the gated layers.
        heads: one linear layer per task; a module without tensors for a forgotten task.
        classes: the names of every task's classes; no names for a forgotten task.
        features: the width of the features.
        outputs: the gate whose units the features are, or None.
        learning: a task has begun and not ended.
        frozen: the parameters that no task trains any more, whatever their `requires_grad` says.
        processes: the processes that hold the model together.
        sealed: the seals of what finished tasks use, see `hat.network.seals`; None: not sealed yet.
        drifted: the name of the first tensor that has differed from its seal, or None.
    """

    outputs: Gate | None
    commits: ClassVar[bool] = True
    """Whether every finished task has a mask and per-task values, which nothing may change."""

    def __init__(
        self,
        body: nn.Module,
        *,
        features: int | None = None,
        outputs: Gate | None = None,
        config: GateConfig | None = None,
        process_group: ProcessGroup | Literal["default"] | None = "default",
    ) -> None:
        super().__init__()
        check_arguments(Network, locals())
        if features is not None:
            check_whole("features", int(features), least=1)
        refuse_sharded(body.named_parameters, "body")
        self.processes = Processes(process_group)
        self.state = State(config)
        self.body = body
        self.heads = nn.ModuleList()
        self.classes: list[tuple[str, ...]] = []
        self.learning = False
        self._forgotten: set[int] = set()
        self.unfinished: Callable[[], None] | None = None  # undoes a load if it has been broken off
        self.frozen = Frozen()
        self._gates, self._per_task = gates(body), per_task(body)
        self._sides: tuple[tuple[int, ...], dict[Tensor, Sides], dict[Tensor, list[Block]]] = ((), {}, {})
        self._mixing: tuple[int, dict[Hashable, bool]] = (-1, {})  # State.edits, and what was found since, by kind
        self.sealed: dict[str, Any] | None = None
        self.drifted: str | None = None
        self._check_body()
        width_of_body = body.features if isinstance(body, Wired) else None
        last = (self._last_gate() if outputs is None else outputs).units
        self.features = next(n for n in (features, width_of_body, last) if n is not None)
        self.__dict__["outputs"] = self._find_outputs(outputs)  # a module of the body, not of this one
        for part in self.parts():
            part.share(self.state)
        keep_frozen_in_place(self.gates.values())

    @property
    def config(self) -> GateConfig:
        """How gates are learned and committed."""
        return self.state.config

    @property
    def process_group(self) -> ProcessGroup | Literal["default"] | None:
        """The processes that hold the same model, see `hat.HATModel`. May be set between two calls."""
        return self.processes.group

    @process_group.setter
    def process_group(self, group: ProcessGroup | Literal["default"] | None) -> None:
        self.processes = Processes(group)

    # -- gates, heads and tasks ------------------------------------------------------------------------------------

    @property
    def gates(self) -> dict[str, Gate]:
        """The gates by name, in the order of the body's modules, as of the last `begin_task`."""
        if self.unfinished is not None:
            self.unfinished()
        return self._gates

    @property
    def per_task(self) -> dict[str, PerTask]:
        """The modules with tensors of each task's own, by name, as of the last `begin_task`."""
        return self._per_task

    def parts(self) -> list[Gate | PerTask]:
        """The gates and the modules with tensors of each task's own: all that begins and commits a task."""
        return [*self.gates.values(), *self._per_task.values()]

    def look_again(self) -> None:
        """Find the gates and the modules with tensors of each task's own anew: the body may have changed."""
        self._gates, self._per_task, self._sides = gates(self.body), per_task(self.body), ((), {}, {})

    @property
    def tasks(self) -> int:
        """How many tasks are finished. Forgotten tasks count too, because their ids are not given again."""
        if self.unfinished is not None:
            self.unfinished()
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
            RuntimeError: no task is being learned.
        """
        self.require_learning("task")
        return len(self.heads) - 1

    @property
    def head(self) -> nn.Linear:
        """The head of the task that is being learned."""
        head = self.heads[self.task]
        assert isinstance(head, nn.Linear)
        return head

    @property
    def embeddings(self) -> list[nn.Parameter]:
        """The embedding of every gate."""
        return [gate.embedding for gate in self.gates.values()]

    @property
    def reads_features_alone(self) -> bool:
        """Whether only heads read the output of the body."""
        return True

    def require_learning(self, what: str) -> None:
        """Refuse `what` unless a task is being learned.

        Raises:
            RuntimeError: no task is being learned.
        """
        if self.unfinished is not None:
            self.unfinished()
        if not self.learning:
            raise RuntimeError(f"{what}: no task is being learned; call begin_task() first")

    def check_task(
        self, task: object, *, finished: bool = False, argument: str = "task", expected: str = "an int"
    ) -> int:
        """Check that `task` is the id of a task that is not forgotten, and return it.

        Args:
            task: an int.
            finished: the task that is being learned does not count.
            argument: the name of the argument, for the message.
            expected: which values the argument may have, for the message.

        Raises:
            TypeError: `task` is not an int.
            ValueError: there is no such task, it is not finished, or it is forgotten.
        """
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"{argument}: expected {expected}, got {type(task).__name__}")
        count = self.tasks if finished else len(self.heads)
        if not 0 <= task < count:
            kind = "finished tasks, " if finished else "" if count else "a task, "
            tasks = f"0 to {count - 1}" if count else "of which there are none"
            raise ValueError(f"{argument}: expected {kind}{tasks}, got {got(task)}")
        if task in self._forgotten:
            raise ValueError(f"{argument}: expected a task that is not forgotten, got {task}")
        return task

    def check_finished(self, tasks: Iterable[int]) -> None:
        """Refuse tasks that are not finished or that are forgotten.

        Raises:
            TypeError: a task is not an int.
            ValueError: a task is not finished or is forgotten; the message names the first such task.
        """
        if isinstance(tasks, Tensor) or not isinstance(tasks, Iterable):
            raise TypeError(f"tasks: expected ids of tasks, got {got(tasks)}")
        for task in tasks:
            self.check_task(task, finished=True)

    @property
    def mixes(self) -> bool | None:
        """Whether one pass through the body takes a batch of several tasks.

        True if this is so for every kind of batch that has come since a task last began or ended, False if it is not
        so for some kind, None if no such batch has come; see `hat.network.mixing`.
        """
        by_kind = self.mixing
        return all(by_kind.values()) if by_kind else None

    @property
    def mixing(self) -> dict[Hashable, bool]:
        """What `mixes` says, by the kind of batch; empty again whenever a task begins or ends, or units change."""
        if self._mixing[0] != self.state.edits:
            self._mixing = self.state.edits, {}
        return self._mixing[1]

    # -- what is locked --------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether anything is locked: by a finished task, or because the network came pretrained and is locked."""
        return self._remembers or any(gate.reserves for gate in self.gates.values())

    def locks(self) -> dict[Tensor, Lock | None]:
        """The lock of every shared parameter; None if nothing of the parameter is locked.

        A frozen parameter is not here, see `frozen_parameters`.
        """
        return {p: lock if self.holds else None for p, lock in locks(self.body).items()}

    def sides(self) -> dict[Tensor, Sides]:
        """The units along every shared parameter."""
        self.blocks()
        return self._sides[1]

    def blocks(self) -> dict[Tensor, list[Block]]:
        """The parts of every shared parameter in which an element may move."""
        # Every step asks for the blocks, but they change only when a task ends. The key is all that they depend on.
        key = (self.tasks, *(number for gate in self.gates.values() for number in gate.identity()))
        if self._sides[0] != key:
            holds, frozen, sides_by_parameter = self.holds, self.frozen.parameters, sides(self.body)
            movable = {p: side.blocks(p) if holds else [Block()] for p, side in sides_by_parameter.items()}
            blocks = {p: [] if id(p) in frozen else blocks_of_p for p, blocks_of_p in movable.items()}
            self._sides = key, sides_by_parameter, blocks
        return self._sides[2]

    def active_locks(self) -> dict[Tensor, Lock]:
        """The lock of every parameter of which something is locked. The lock of a frozen parameter locks all of it."""
        active = {p: lock for p, lock in self.locks().items() if lock is not None}
        return active | {p: frozen_lock(p) for p in self.frozen_parameters()}

    def frozen_parameters(self) -> list[nn.Parameter]:
        """The parameters that no task may train any more.

        These are the heads of finished tasks and, after the first task, all parameters along no gate. They are found
        anew; `frozen` keeps them.
        """
        heads = self.heads[: len(self.heads) - self.learning]
        return [*heads.parameters(), *self._frozen_of_body()]

    def freeze(self) -> None:
        """Keep in `frozen` what is frozen now, and switch off its gradients, see `Frozen`.

        What this model itself has frozen before, and what is not frozen any more, is trained again.
        """
        self.frozen.become(self.frozen_parameters())
        self._sides = ((), {}, {})
        self._release()

    def freeze_more(self, *heads: nn.Module) -> None:
        """As `freeze`, when a task begins or ends: no loop runs through the heads of all finished tasks.

        Args:
            heads: of tasks that have just been finished.
        """
        self.frozen.add([*(p for head in heads for p in head.parameters()), *self._frozen_of_body()])
        self._release()

    def named_modules_in_use(self) -> Iterator[tuple[str, nn.Module]]:
        """(name, module) as of `named_modules`, without the heads of finished tasks, whose number grows."""
        yield "", self
        for name, child in self.named_children():
            if child is not self.heads:
                yield from child.named_modules(prefix=name)
        if self.learning:
            yield from self.head.named_modules(prefix=f"heads.{self.task}")

    def train(self, mode: bool = True) -> Any:
        """Set the mode as `torch.nn.Module.train`, but the heads of earlier tasks stay in evaluation mode."""
        if not isinstance(mode, bool):
            raise ValueError(f"mode: expected a bool, got {got(mode)}")
        self.training = self.heads.training = mode
        last_head = [self.heads[-1]] if len(self.heads) else []
        for child in [*(child for child in self.children() if child is not self.heads), *last_head]:
            child.train(mode)
        return self

    def capacity(self) -> dict[str, float]:
        """The share of used units in [0, 1] of every gate by name."""
        return {name: gate.used.mean().item() for name, gate in self.gates.items()}

    # -- what the network answers ----------------------------------------------------------------------------------

    def answer(self, x: Any, task: int) -> Tensor:
        """The logits [B, ..., classes] of a task. The caller has checked that the task exists."""
        logits: Tensor = self.heads[task](self.features_of(x, self._answer_of(task)))
        return logits

    def features_of(self, x: Any, answer: Answer) -> Tensor:
        """The features [B, ..., features] that the body computes from `x` while it answers for `answer`.

        Raises:
            ValueError: the body gives another number of features than `features`.
        """
        if DistributedDataParallel._active_ddp_module is not None:
            data_parallel.follow()
        body = self.body
        with Pass(self.state, answer, body):
            if self._keeps_buffers():
                with frozen(body):
                    features: Tensor = body(x)
            else:
                features = body(x)
        if not isinstance(features, Tensor) or not features.dim():
            raise TypeError(f"body: expected features, a tensor (B, ..., {self.features}), got {got(features)}")
        if features.shape[-1] != self.features:
            width = features.shape[-1]
            raise ValueError(
                f"features: expected {self.features} from the body, got {width}; make the model with features={width}, "
                "and with outputs= if the features are the units of another gate than the last"
            )
        return features

    def _answer_of(self, task: int) -> Answer:
        """The answer of the body for a task: `LEARNING` for the task that is being learned, else `Finished`."""
        return LEARNING if self.learning and task == self.task else Finished(task)

    def _keeps_buffers(self) -> bool:
        """Whether a forward pass must not change the buffers of the body, because finished tasks read them."""
        return self.training and self._remembers

    # -- helpers ---------------------------------------------------------------------------------------------------

    @property
    def _remembers(self) -> bool:
        """Whether there is a finished task that is not forgotten."""
        return self.tasks > len(self._forgotten)  # no loop over the tasks, because every step asks

    def _frozen_of_body(self) -> Iterable[nn.Parameter]:
        """The parameters of the body that are frozen: all along no gate, after the first task."""
        return unlocked(self.body).values() if self.holds else ()

    def _release(self) -> None:
        """Release the memory that is kept for the next gradients of the body, because other gradients come now."""
        turn(self)
        for parameter in self.body.parameters():
            release(parameter)

    def _check_body(self) -> None:
        if any(isinstance(module, Network) for module in self.body.modules()):
            raise ValueError("body: expected a network without a HATModel in it, got one; take its body, without tasks")
        if any(gate.tasks for gate in self.gates.values()):
            raise ValueError(
                "body: expected gates without finished tasks, got the body of a model that has some; "
                "load the state of that model instead"
            )
        if not self.gates:
            raise ValueError("body: expected at least one gated layer or hat.Gate, got none")
        for name, module in self.body.named_modules():
            if getattr(module, "running_mean", None) is not None and not isinstance(module, PerTask):
                raise ValueError(
                    f"body.{name}: expected no {type(module).__name__}: its statistics would be shared by all tasks, "
                    "and every task would change the earlier ones; use hat.HATBatchNorm2d and the like, or hat.convert"
                )
        message = unshared.told(self.body)
        if message is not None:
            warnings.warn(message, UnlockedWarning, stacklevel=3)

    def _last_gate(self) -> Gate:
        return list(self.gates.values())[-1]

    def _find_outputs(self, outputs: Gate | None) -> Gate | None:
        """The gate whose units the features are."""
        if outputs is not None:
            if all(gate is not outputs for gate in self.gates.values()):
                raise ValueError(
                    f"outputs: expected a gate of the body, one of {', '.join(self.gates)}, got another gate"
                )
            if self.features % outputs.units:
                raise ValueError(f"outputs: expected units that divide {self.features} features, got {outputs.units}")
            return outputs
        tail = self.body.tail if isinstance(self.body, Wired) else None
        return None if tail is None or self.features % tail.units else tail

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copied(self, memo)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        turn(self)

    def __getstate__(self) -> dict[str, Any]:
        if self.unfinished is not None:
            self.unfinished()
        return {**self.__dict__, "_sides": ((), {}, {})}  # the key holds addresses, which differ in a copy
