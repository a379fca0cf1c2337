"""The whole training step in one call; on a GPU, `graph=True` records the step as one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.arguments import check_number, check_switches, check_type, got
from hat.life.model import HATModel
from hat.optim.guard import locker_of
from hat.steps.graphs import Graphs, kind_of
from hat.steps.structure import Structure, own_code
from hat_kernels.capturing import is_capturing
from hat_kernels.dispatch import free_to_read


class NonFiniteLossError(ArithmeticError):
    """The loss became inf or NaN. The weights are those of the step before."""


class StepLoss(NamedTuple):
    """The losses of a step, computed before its update.

    Attributes:
        task: 0-d float32, the loss of the batch.
        penalty: 0-d float32, the capacity penalty R, without its weight.
    """

    task: Tensor
    penalty: Tensor


class TrainStep:
    """One training step of the task that is being learned (Serrà et al. 2018, section 2).

    In this order: anneal, forward, `loss + lamb * penalty`, backward with the compensation, clip, update within the
    locks, clamp. A call gives the same bits as the five lines of a training loop. As a graph it is one launch.

        step = hat.TrainStep(model, optimizer, F.cross_entropy, graph=True)
        for progress, (x, y) in task.batches(epochs=10, batch_size=64, device="cuda"):
            losses = step(x, y, progress=progress)

    With `graph`:

    - The first three steps of a batch shape run without a graph. The fourth step is recorded, and all later steps
      replay the recording.
    - The graph reads the annealed scale, the counters of AdamW and, for optimizers of `hat.optim`, the learning rate
      from tensors. They may change at every step.
    - Steps are recorded again if a task ends, if a parameter or a state of the optimizer becomes another tensor, or if
      an option, a mode or the shape of a batch changes.
    - The graph sees new values in tensors that `loss` or a module reads. It does not see a Python decision in `loss` or
      a module that would now be different.
    - Batches may lie anywhere on the device: they are copied to the tensors that the graph reads. Dropout draws new
      numbers in every step.
    - Gradients live inside the graph: `.grad` is None after a step, and hooks do not run in a replay.
    - If a step cannot be recorded (on a CPU, with an optimizer that waits for the device, or with a seventeenth batch
      shape), it runs without a graph, and one `GraphWarning` says why.

    Args:
        model: must be learning a task at every step; it may learn one task after another.
        optimizer: of `hat.optim` or guarded by `hat.guard`, over parameters of the model.
        loss: takes (logits [B, classes], y) and returns a 0-d tensor.
        lamb: weight of the penalty, >= 0; 0.75 in the paper.
        autocast: dtype of the forward pass, `torch.bfloat16` or `torch.float16`. None: the caller decides by its own
            autocast.
        scaler: scales the loss, for float16.
        graph: record the step on a GPU.
        compile: compile the forward pass and its gradient by `torch.compile`, without graph breaks, again for every
            task.

    Raises:
        TypeError: `model` is not a `HATModel`.
        ValueError: the optimizer is neither of `hat.optim` nor guarded, or belongs to another model; `lamb` is
            negative; or `autocast` is another dtype.
    """

    def __init__(
        self,
        model: HATModel,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        *,
        lamb: float = 0.75,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        graph: bool = False,
        compile: bool = False,
    ) -> None:
        _check(model, optimizer, lamb, autocast)
        check_type("loss", loss, Callable, "a function")  # type: ignore[arg-type]
        if scaler is not None:
            check_type("scaler", scaler, torch.amp.GradScaler, "a torch.amp.GradScaler or None")
        check_switches(graph=graph, compile=compile)
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.lamb, self.autocast, self.scaler, self.compile = lamb, autocast, scaler, compile
        self._graphs = Graphs(self._recorded, name="the training step", abandon=self._abandon)
        self._graph, self._structure = graph, Structure(model, optimizer)
        self._forward: Callable[..., tuple[Tensor, Tensor]] = _forward
        self._compiled_for = -1
        self._task: int | None = None
        self._rates: dict[int, tuple[Tensor, float]] = {}

    def __call__(self, x: Tensor, y: Tensor, *, progress: float | None = None, task: int | None = None) -> StepLoss:
        """Learn one batch.

        Args:
            x: [B, ...], the input of the model, on the device of the model.
            y: the target of the loss, on the same device.
            progress: of the batch in its epoch, in [0, 1], see `HATModel.anneal`; None leaves the scale as it is.
            task: the task whose head answers; by default the task that is being learned.

        Returns:
            The losses, on the device; reading them waits for the device.

        Raises:
            NonFiniteLossError: the loss is inf or NaN, and nothing was updated. Only on a CPU; on other devices the
                host would have to wait.
            RuntimeError: no task is being learned.
            TypeError: `x` or `y` is not a tensor.
            ValueError: `progress` is not in [0, 1], a tensor is on another device, there is no such task, or `loss`
                does not take the logits and `y`, or does not return a 0-d tensor.
        """
        self._check_batch(x, y)
        if progress is not None:
            self.model.anneal(progress)
        if self.compile and self._compiled_for != len(self.model.heads):
            self._compiled_for = len(self.model.heads)
            self._forward = torch.compile(own_code(_forward), fullgraph=True)
        if not self._is_recorded(x.device):
            return StepLoss(*self._step(x, y, task).unbind())
        options = (self.lamb, self.loss, self.autocast, self.scaler)
        if self._structure.has_changed(options, rates=not self._reads_rates()):
            self._graphs.clear()
        self._task = task
        self._hold_rates()
        return StepLoss(*self._graphs((task, kind_of(x), kind_of(y)), x, y).unbind())

    def _check_batch(self, x: Tensor, y: Tensor) -> None:
        device = self.model.state.scale.device
        for name, tensor in (("x", x), ("y", y)):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
            if tensor.device != device:
                raise ValueError(f"{name}: expected a tensor on {device} as the model, got {tensor.device}")
        if not self.model.learning:
            raise RuntimeError("step: no task is being learned; call begin_task() first")

    def _step(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        """Take the step. Returns the losses [task, penalty]."""
        criterion = self.loss if self.compile else self._loss  # compiled code takes no exception out of a graph
        loss, penalty = self._forward(self.model, criterion, self.autocast, x, y, task)
        if not isinstance(loss, Tensor) or loss.dim():
            raise ValueError(f"loss: expected a function that returns a 0-d tensor, got one that returns {got(loss)}")
        if free_to_read(loss) and not torch.isfinite(loss):
            raise NonFiniteLossError(f"loss: expected finite, got {loss.item()}")
        total = loss + self.lamb * penalty
        self.optimizer.zero_grad()
        if self.scaler is None:
            total.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(total).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return torch.stack([loss.detach().float(), penalty.detach()])

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch. An error of the loss is told in the words of this house."""
        try:
            return self.loss(logits, y)
        except Exception as error:
            if type(error) not in _OF_ARGUMENTS or is_capturing(logits.device):
                raise
            given = f"logits {tuple(logits.shape)} and {got(y)}"
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"loss: expected a function of {given} as y, got {lines[0][:200]}") from error

    # -- as a graph -----------------------------------------------------------------------------------------------

    def _is_recorded(self, device: torch.device) -> bool:
        """Whether the user wants a graph, and the device and the optimizer allow one."""
        if not self._graph or not self._graphs.can_record(device):
            return False
        capturable = all(group.get("capturable") is not False for group in self.optimizer.param_groups)
        if not capturable:
            self._graphs.say(f"expected capturable=True of {type(self.optimizer).__name__}, got False")
        return capturable

    def _recorded(self, x: Tensor, y: Tensor) -> Tensor:
        """A step that keeps no gradient, because another recording may use the memory of the gradients."""
        with self._rates_on_device() if self._reads_rates() else nullcontext():
            losses = self._step(x, y, self._task)
        self.optimizer.zero_grad()
        return losses

    def _abandon(self) -> None:
        """Clean up after a recording that failed: Python objects are in the middle of a step, but no kernel has run."""
        locker_of(self.optimizer).abandon()
        self.optimizer.zero_grad()
        if self.scaler is not None:
            self.scaler._per_optimizer_states.clear()
            for name in ("grad_scale", "found_inf"):
                self.optimizer.__dict__.pop(name, None)

    def _reads_rates(self) -> bool:
        """Whether the optimizer reads its learning rates from tensors. For others a recording fixes the rates."""
        return locker_of(self.optimizer) is self.optimizer

    def _hold_rates(self) -> None:
        """Write the present learning rates to the tensors that a recording reads."""
        device = self.model.state.scale.device
        for index, group in enumerate(self.optimizer.param_groups):
            rate = group["lr"]
            if isinstance(rate, Tensor) and rate.device == device and device.type != "cpu":
                self._rates.pop(index, None)  # a recording reads this tensor itself
                continue
            value = float(rate)
            held, last = self._rates.get(index) or (torch.zeros((), device=device), float("nan"))
            if value != last:
                held.fill_(value)
                self._rates[index] = held, value

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Inside the block, the learning rates of the groups are the tensors of `_hold_rates`."""
        groups = self.optimizer.param_groups
        before = [group["lr"] for group in groups]
        for index, (held, _) in self._rates.items():
            groups[index]["lr"] = held
        try:
            yield
        finally:
            for group, rate in zip(groups, before, strict=True):
                group["lr"] = rate


# Not their subclasses: memory may be full.
_OF_ARGUMENTS = (IndexError, RuntimeError, NotImplementedError, TypeError, ValueError)


def _forward(
    model: HATModel,
    criterion: Callable[[Tensor, Tensor], Tensor],
    autocast: torch.dtype | None,
    x: Tensor,
    y: Tensor,
    task: int | None,
) -> tuple[Tensor, Tensor]:
    """The forward pass. Returns (loss of the batch, penalty)."""
    with nullcontext() if autocast is None else torch.autocast(x.device.type, dtype=autocast):
        loss = criterion(model(x, task=task), y)
    return loss, model.penalty()


def _check(model: HATModel, optimizer: torch.optim.Optimizer, lamb: float, autocast: torch.dtype | None) -> None:
    check_type("model", model, HATModel, "a hat.HATModel")
    if isinstance(optimizer, type):
        raise TypeError(f"optimizer: expected an optimizer, got the class {optimizer.__name__}")
    locker = locker_of(optimizer)
    if locker is None:
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer: expected one of hat.optim or one guarded by hat.guard, got {kind}")
    if locker.model is not model:
        raise ValueError("optimizer: expected an optimizer of this model, got that of another model")
    check_number("lamb", lamb, least=0)
    if autocast is not None and not (isinstance(autocast, torch.dtype) and autocast in (torch.bfloat16, torch.float16)):
        raise ValueError(f"autocast: expected None, torch.bfloat16 or torch.float16, got {got(autocast)}")
