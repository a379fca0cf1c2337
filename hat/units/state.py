"""What all gates of a model share: the scale, the configuration, and the task that a forward pass answers for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from hat.arguments import check_choice, check_number, check_switch
from hat.units.recomputing import ENTERED

MASK_MODES = ("binary", "published")
COMPENSATIONS = ("published", "exact")
INITS = ("normal", "uniform")
FOLDS = ("auto", "always", "never")


class Unfinished(Enum):
    """What a forward pass answers for, if not for finished tasks.

    The three cases differ in the gates, and in the tensors that every task has for itself (`hat.PerTask`).

    Attributes:
        LEARNING: the task that is being learned: its gates, and the per-task tensors that are trained now.
        OPEN: no task: all gates are open, and per-task tensors have the values that every task starts from.
        PLAIN: a network without HAT: all gates are open, and per-task tensors are the ones that are trained now.
    """

    LEARNING = "learning"
    OPEN = "open"
    PLAIN = "plain"


LEARNING: Final = Unfinished.LEARNING
OPEN: Final = Unfinished.OPEN
PLAIN: Final = Unfinished.PLAIN


class Finished(NamedTuple):
    """A forward pass answers for one finished task, with the task's masks and per-task tensors.

    Attributes:
        task: the id of the task.
    """

    task: int


class PerSample(NamedTuple):
    """A forward pass answers for finished tasks, one per sample.

    Attributes:
        tasks: [B] int64, the id of every sample's task.
    """

    tasks: Tensor


Answer = Unfinished | Finished | PerSample
"""What a forward pass answers for."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How gates are learned and committed.

    Attributes:
        mask_mode: `"binary"`, the mask of a finished task is `e > 0`, exactly 0 or 1, and no weight that the task uses
            ever moves; or `"published"`, the mask is the soft `sigmoid(s_max e)`, and forgetting is small but not zero.
        compensation: `"published"`, the embedding gradient with the clamp and float32 saturation of the published code;
            or `"exact"`, without them (tasks use less capacity at the same penalty).
        s_max: the scale at the end of every epoch, > 1.
        limit: embeddings are clamped to ± this after each step, > 0.
        init: how an embedding starts every task: `"normal"`, N(0, 1), or `"uniform"`, U(0, 2) for compression runs.
        locked_first: move the units that a finished task uses to the front of their axis, so that the locked weights
            are one block on which no work is done; see `hat.network.moving`. The network computes the same either way.
        fold: while a task is learned, layers may multiply their weights by the gate instead of their activations.
            Function and gradients are the same to rounding, but a unit that is off leaks 2^-32 of its value. `"auto"`,
            where fewer passes over memory are needed, see `hat.layers.folding`; `"always"`, wherever it is valid:
            behind ReLU, leaky ReLU or no activation, before a known pool or none, not in float16, and until a block
            of the weight is locked; or `"never"`.
    """

    mask_mode: str = "binary"
    compensation: str = "published"
    s_max: float = 400.0
    limit: float = 6.0
    init: str = "normal"
    locked_first: bool = True
    fold: str = "auto"

    def __post_init__(self) -> None:
        for name, choices in (
            ("mask_mode", MASK_MODES),
            ("compensation", COMPENSATIONS),
            ("init", INITS),
            ("fold", FOLDS),
        ):
            check_choice(name, getattr(self, name), choices)
        check_number("s_max", self.s_max, above=1)
        check_number("limit", self.limit, above=0)
        check_switch("locked_first", self.locked_first)


class Float32Module(nn.Module):
    """A module whose tensors stay float32 under `.double()`, `.half()` and the like. They still change device."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)


class _Said(threading.local):
    """What the open pass of one thread answers for; None if no pass is open in the thread."""

    def __init__(self) -> None:  # runs once in every thread
        self.answer: Answer | None = None

    def __reduce__(self) -> tuple[type[_Said], tuple[()]]:
        return _Said, ()


class State(Float32Module):
    """What all gates of one model share.

    Attributes:
        scale: 0-d float32 buffer, the annealed `s`.
        config: how gates are learned and committed.
        edits: grows whenever embeddings are drawn, or masks, places or numbers of units change.
    """

    scale: Tensor

    def __init__(self, config: GateConfig | None = None) -> None:
        super().__init__()
        self.config = config or GateConfig()
        self.edits = 0
        self._said = _Said()
        self._only_learning = True  # no pass so far has answered for anything else
        self._elsewhere: dict[int, Answer] = {}  # by thread, what open passes answer for, if not for `LEARNING`
        self.register_buffer("scale", torch.tensor(self.config.s_max, dtype=torch.float32))

    @property
    def answer(self) -> Answer:
        """What the present forward pass of this thread answers for; `LEARNING` between two passes.

        Raises:
            RuntimeError: no pass is open in this thread, but a gradient recomputes a part of an earlier pass, and not
                by `torch.utils.checkpoint`; or another thread has an open pass for finished tasks, of which this thread
                may compute a part.
        """
        answer = self._said.answer
        return self._answer_outside() if answer is None else answer

    def answering(self, answer: Answer) -> Answering:
        """A context manager: passes of this thread answer for `answer`, as does what a gradient recomputes of them."""
        return Answering(self, answer)

    def set_progress(self, progress: float) -> None:
        """Set the scale, `s = 1/s_max + (s_max - 1/s_max) progress`, for a progress in [0, 1]; Serrà et al., eq. 3."""
        s_max = self.config.s_max
        self.scale.fill_(1 / s_max + (s_max - 1 / s_max) * progress)

    def _answer_outside(self) -> Answer:
        """The answer for a module that runs outside of a pass; see `answer`."""
        if torch.compiler.is_compiling() or self._only_learning:
            return LEARNING
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "state.answer: expected recomputations by torch.utils.checkpoint, got another one, of which nobody "
                "knows the task; recompute inside `with model.state.answering(...)`"
            )
        if self._elsewhere:
            raise RuntimeError(
                "state.answer: expected the body to run in the thread of its model, got another thread while the model "
                "answers for finished tasks; run the body inside `with model.state.answering(...)`"
            )
        return LEARNING

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_elsewhere": {}}  # the open passes are those of the original


class Answering:
    """The context manager of `State.answering`.

    Args:
        state: says what modules answer for.
        answer: what they answer for.
        body: the network that computes the answer, if it is known.
        edits: `State.edits` of the pass of which a part is recomputed; None: this is the pass itself.
    """

    def __init__(
        self, state: State, answer: Answer, body: nn.Module | None = None, *, edits: int | None = None
    ) -> None:
        self.state, self.answer, self.body, self.edits = state, answer, body, edits
        self.before: Answer | None = None
        self._notes = not torch.compiler.is_compiling()  # compiled gradients do not run modules

    def __enter__(self) -> None:
        if self.edits is not None and self.edits != self.state.edits:
            raise RuntimeError(
                "backward: expected the network of the forward pass, of which a checkpoint recomputes a part, got one "
                "in which a task has begun or ended, or units have changed since; compute the gradients before that"
            )
        said = self.state._said
        self.before, said.answer = said.answer, self.answer
        if self._notes:
            ENTERED.contexts.append(self)
            if self.answer is not LEARNING:
                self._tell(self.answer)

    def __exit__(self, *_: object) -> None:
        self.state._said.answer = self.before
        if self._notes:
            ENTERED.contexts.pop()
            if self.answer is not LEARNING:
                self._tell(self.before)

    def again(self) -> Answering:
        """See `hat.units.recomputing.Reopens`."""
        return Answering(self.state, self.answer, edits=self.state.edits)

    def _tell(self, answer: Answer | None) -> None:
        """Let other threads know what this thread answers for."""
        state, thread = self.state, threading.get_ident()
        state._only_learning = False
        if answer is None or answer is LEARNING:
            state._elsewhere.pop(thread, None)
        else:
            state._elsewhere[thread] = answer
