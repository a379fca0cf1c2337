"""What a sequence of actions lives with: a model, an optimizer, and what the finished tasks have promised."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import hat
from hat.optim.guard import locker_of
from hat.tracing.untouched import evaluating
from tests.soak.networks import NETWORKS, fresh
from tests.soak.optimizers import head_in

BATCH = 5
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 6e-2}
"""How much a logit may change when the network grows, as a share of the largest logit."""


class Broken(AssertionError):
    """A promise is broken, and nobody was told.

    Attributes:
        kind: what is wrong, in a few words; findings of one kind are counted together.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass(frozen=True)
class Promise:
    """The answers of a finished task to fixed inputs.

    Attributes:
        x: [B, ...] the inputs.
        logits: [B, classes] by the dtype of the forward pass, float32 and bfloat16 under autocast.
    """

    x: Tensor
    logits: dict[torch.dtype, Tensor]

    def drift(self, now: Promise) -> float:
        """The largest change of a logit; NaN counts as inf."""
        return max(_change(now.logits[dtype], before) for dtype, before in self.logits.items())

    def close(self, now: Promise) -> bool:
        """Whether all logits are equal to rounding."""
        return all(
            _change(now.logits[dtype], before) <= ROUNDING[dtype] * max(1.0, before.abs().max().item())
            for dtype, before in self.logits.items()
        )


Promises = dict[int, Promise]


@dataclass(frozen=True)
class Saved:
    """A saved state, and what the tasks in it have promised."""

    state: dict[str, Any]
    promises: Promises
    units: dict[str, int]
    optimizer: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    hazards: frozenset[str]


@dataclass
class World:
    """Everything that the actions of one sequence change.

    Attributes:
        network: the name of the kind of network.
        model: the living model.
        optimizer: the living optimizer, or None.
        promises: the answers of every finished task.
        other: promises that may hold instead after this action: of a load that Ctrl-C may have ended in time.
        bystander: a model that nobody changes any more, such as the original of a copy, and its promises.
        saved: the last saved states.
        grows: the present action may change logits by rounding, if it changes the number of units.
        leaves: the task that the present action removes, or None.
        hazards: what the user has done that the library cannot prevent, but has to tell at the next `end_task`.
        untold: the hazards that have changed an answer, and of which nobody was told so far.
        learns_head: whether a step of the present task has had the head in its optimizer, or the user was told; None
            before the first step.
    """

    network: str
    model: hat.HATModel = field(init=False)
    optimizer: torch.optim.Optimizer | None = None
    promises: Promises = field(default_factory=dict)
    other: Promises | None = None
    bystander: tuple[hat.HATModel, Promises] | None = None
    saved: list[Saved] = field(default_factory=list)
    grows: bool = False
    leaves: int | None = None
    hazards: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)
    learns_head: bool | None = None

    def __post_init__(self) -> None:
        self.model = fresh(self.network)
        self._note()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return NETWORKS[self.network].shape

    @property
    def steady(self) -> bool:
        """Whether finished tasks answer in training mode as in evaluation mode."""
        return NETWORKS[self.network].steady

    def units(self) -> dict[str, int]:
        """The number of units of every gate."""
        return {name: gate.units for name, gate in self.model.gates.items()}

    def begin_step(self) -> None:
        """An optimizer is about to make a step."""
        assert self.optimizer is not None
        if self.model.holds and locker_of(self.optimizer) is None:
            self.hazards.add("unguarded optimizer")

    def end_step(self) -> None:
        """The optimizer has made its step."""
        assert self.optimizer is not None
        head = self.model.head
        self.learns_head = bool(self.learns_head) or not head.weight.requires_grad or head_in(self.optimizer, head)

    def check(self, said: Iterable[warnings.WarningMessage]) -> None:
        """Compare all finished tasks with their promises after an action.

        Args:
            said: the warnings of the action.

        Raises:
            Broken: an answer has changed, and nobody was told why.
        """
        said = list(said)
        told = any(_tells(warning, self.model) for warning in said)
        if any(warning.category.__name__ == "UntrainedWarning" for warning in said):
            self.learns_head = True  # or the user knows
        if self.leaves in self.model.forgotten:
            self.promises.pop(self.leaves, None)  # type: ignore[arg-type]
        if self.other is not None and not self.promises.keys() <= set(self.model.remembered):
            self.promises, self.other = self.other, None  # the tasks are those of the state that was loaded
        now = answers(self.model, self.promises, self.shape)
        if told:
            self.promises, self.hazards, self.untold = now, set(), set()
        else:
            self.promises = self._kept(now)
        if self.bystander is not None:
            model, promises = self.bystander
            if drifted := drifts(promises, answers(model, promises, self.shape)):
                raise Broken("silent drift of a model that was copied", drifted)
        if self.model.tasks > self._tasks:
            self._require_told(told, now)
        new = [task for task in self.model.remembered if task not in self.promises]
        self.promises |= answers(self.model, new, self.shape)
        self._note()

    def _kept(self, now: Promises) -> Promises:
        """The promises that hold from now on, if nobody was told of a drift in this action.

        Raises:
            Broken: an answer has changed, and no hazard explains it.
        """
        drifted = drifts(self.promises, now)
        if not drifted:
            self.untold = set()
            return now
        if self.other is not None and not drifts(self.other, answers(self.model, self.other, self.shape)):
            return self.other
        grown = self.grows and self.units() != self._units
        if grown and not self.untold and all(promise.close(now[task]) for task, promise in self.promises.items()):
            return now
        if not self.hazards:
            raise Broken("growing changes answers" if grown else "silent drift", drifted)
        self.untold |= self.hazards
        return self.promises

    def _require_told(self, told: bool, now: Promises) -> None:
        """A task has ended: by now the user must know of every hazard that has done harm.

        Raises:
            Broken: the user was not told.
        """
        if self.untold:
            raise Broken(f"end_task does not tell: {', '.join(sorted(self.untold))}", drifts(self.promises, now))
        if self.learns_head is False:
            raise Broken("a head in no optimizer is not told", "neither a step nor end_task gave a warning")
        self.hazards = set()

    def _note(self) -> None:
        """Note how things stand before the next action."""
        self.other, self.grows, self.leaves = None, False, None
        self._tasks, self._units = self.model.tasks, self.units()
        if not self.model.learning:
            self.learns_head = None


def answers(model: hat.HATModel, tasks: Iterable[int], shape: tuple[int, ...]) -> Promises:
    """The answers of finished tasks in evaluation mode; the inputs depend only on the id of the task.

    Raises:
        Broken: a task gives no answer.
    """
    found = {}
    with torch.no_grad(), evaluating(model):
        for task in tasks:
            x = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(task))
            try:
                logits = {torch.float32: model(x, task=task)}
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits[torch.bfloat16] = model(x, task=task)
            except Exception as error:
                raise Broken(f"a finished task is lost: {type(error).__name__}", f"task {task}: {error}") from error
            found[task] = Promise(x, logits)
    return found


def _change(now: Tensor, before: Tensor) -> float:
    if now.shape != before.shape:
        return float("inf")
    if torch.equal(now, before):
        return 0.0
    change = (now.float() - before.float()).abs().max().item()
    return change if change == change else float("inf")


def drifts(promises: Promises, now: Promises) -> str:
    """The tasks that answer differently, and by how much; "" if there is none."""
    by_task = {task: promise.drift(now[task]) for task, promise in promises.items()}
    return ", ".join(f"task {task} by {drift:.2g}" for task, drift in by_task.items() if drift)


def _tells(warning: warnings.WarningMessage, model: hat.HATModel) -> bool:
    """Whether a warning says that something finished tasks use has moved, and names it."""
    text = str(warning.message)
    return warning.category.__name__ == "DriftWarning" and any(name in text for name in model.state_dict())
