"""The whole training step as one callable, and as one graph of the GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.graphs import Graphs, kind_of
from hat.model import HATModel
from hat_kernels.dispatch import chosen_backend, free_to_read


class NonFiniteLossError(ArithmeticError):
    """The loss became inf or NaN; the weights of the step before it are kept."""


class StepLoss(NamedTuple):
    """What a step has minimised, before its update.

    Attributes:
        task: 0-d float32, the loss of the batch.
        penalty: 0-d float32, the capacity penalty R, without its weight.
    """

    task: Tensor
    penalty: Tensor


class TrainStep:
    """One step of a task that is being learned: Serrà et al. 2018, section 2, in the order of the published code.

    Anneal, forward, `loss + lamb * penalty`, backward, lock, compensate, clip, update, clamp. As one callable it does
    what the five lines of a training loop do, with the same bits; as a graph it does so in one launch.

        step = hat.TrainStep(model, optimizer, F.cross_entropy, graph=True)
        for progress, (x, y) in task.batches(epochs=10, batch_size=64, device="cuda"):
            losses = step(x, y, progress=progress)

    With `graph`, the first three steps of a batch shape run as they are, then one is recorded, and from then on
    replayed. The annealed scale, the counters of AdamW and, for optimizers of `hat.optim`, the learning rate are read
    from tensors and may change; whatever else changes, a task that ends, another option of a parameter group, another
    shape, is recorded anew. Batches are copied to where the graph reads them, so they may lie anywhere on the device.
    Dropout draws on as ever. Gradients live inside of the graph: after a step `.grad` is None, and hooks of modules and
    optimizers do not run in a replay. Where recording is not possible (on a CPU, with an optimizer that waits for the
    device, for a seventeenth shape) steps run as they are, and one `GraphWarning` says why.

    Args:
        model: a task of it must be learning when a step is taken; it may be any task, one after another.
        optimizer: of `hat.optim` or guarded by `hat.guard`, over the model's parameters.
        loss: of (logits [B, classes], y), to a 0-d tensor.
        lamb: weight of the penalty, >= 0; the paper's is 0.75.
        autocast: run the forward pass in this dtype, `torch.bfloat16` or `torch.float16`.
        scaler: of the loss, for float16.
        graph: record the step on a GPU.
        compile: compile the forward pass and its gradient by `torch.compile`, as one graph of operations.

    Raises:
        ValueError: `lamb` is negative.
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
        if not lamb >= 0:
            raise ValueError(f"lamb: expected >= 0, got {lamb}")
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.lamb, self.autocast, self.scaler = lamb, autocast, scaler
        self._losses = torch.compile(self._forward, fullgraph=True) if compile else self._forward
        self._graphs = Graphs(self._recorded, what="the training step") if graph else None
        self._built: Hashable = None
        self._task: int | None = None
        self._rates: list[Tensor] = []
        self._held: list[float] = []  # what is in them

    def __call__(self, x: Tensor, y: Tensor, *, progress: float | None = None, task: int | None = None) -> StepLoss:
        """Learn one batch.

        Args:
            x: [B, ...], what the model takes, on its device.
            y: what the loss takes, on the same device.
            progress: of the batch in its epoch, in [0, 1], see `HATModel.anneal`; None leaves the scale as it is.
            task: whose head answers; by default that of the task that is being learned.

        Returns:
            The losses, on the device: to read them waits for it.

        Raises:
            NonFiniteLossError: before anything moves; on a CPU only, elsewhere to look would be to wait.
            RuntimeError: no task is being learned.
            ValueError: `progress` is not in [0, 1], a tensor is on another device, or there is no such task.
        """
        self._check(x, y)
        if progress is not None:
            self.model.anneal(progress)
        if self._graphs is None or not self._graphs.can_record(x.device):
            return StepLoss(*self._step(x, y, task).unbind())
        built = self._structure()
        if built != self._built:
            self._graphs.clear()
            self._built = built
        self._task = task
        self._hold_rates()
        return StepLoss(*self._graphs((task, kind_of(x), kind_of(y)), x, y).unbind())

    def _check(self, x: Tensor, y: Tensor) -> None:
        device = self.model.state.scale.device
        for name, tensor in (("x", x), ("y", y)):
            if tensor.device != device:
                raise ValueError(f"{name}: expected a tensor on {device} as the model, got {tensor.device}")
        if not self.model.learning:
            raise RuntimeError("step: no task is being learned; call begin_task() first")

    def _forward(self, x: Tensor, y: Tensor, task: int | None) -> tuple[Tensor, Tensor]:
        enabled = self.autocast is not None
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=enabled):
            loss = self.loss(self.model(x, task=task), y)
        return loss, self.model.penalty()

    def _step(self, x: Tensor, y: Tensor, task: int | None) -> Tensor:
        """[2] the losses."""
        loss, penalty = self._losses(x, y, task)
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

    # -- as a graph -----------------------------------------------------------------------------------------------

    def _recorded(self, x: Tensor, y: Tensor) -> Tensor:
        """A step that leaves no gradient behind: another recording may use its memory."""
        with self._rates_on_device():
            losses = self._step(x, y, self._task)
        self.optimizer.zero_grad()
        return losses

    def _structure(self) -> Hashable:
        """All that a recording fixes, but the batch: the tasks, the blocks that are locked, the options."""
        model = self.model
        own = getattr(self.optimizer, "locks_itself", False)
        gates = tuple(number for gate in model.gates.values() for number in gate.identity())
        options = tuple(
            (name, id(value) if isinstance(value, Tensor) else value)
            for group in self.optimizer.param_groups
            for name, value in group.items()
            if name != "params" and not (own and name == "lr" and not isinstance(value, Tensor))
        )
        count = sum(len(group["params"]) for group in self.optimizer.param_groups)
        return len(model.heads), model.training, gates, options, count, chosen_backend()

    def _hold_rates(self) -> None:
        """Bring the tensors that stand for the learning rates up to date."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        device = self.model.state.scale.device
        while len(self._rates) < len(rates):
            self._rates.append(torch.zeros((), device=device))
            self._held.append(0.0)
        for index, rate in enumerate(rates):
            if not isinstance(rate, Tensor) and rate != self._held[index]:
                self._rates[index].fill_(rate)
                self._held[index] = rate

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Optimizers of `hat.optim` read their rates from tensors in the block; for others a rate is a fixed number."""
        groups = self.optimizer.param_groups
        before = [group["lr"] for group in groups]
        if getattr(self.optimizer, "locks_itself", False):
            for group, rate, held in zip(groups, before, self._rates, strict=True):
                group["lr"] = rate if isinstance(rate, Tensor) else held
        try:
            yield
        finally:
            for group, rate in zip(groups, before, strict=True):
                group["lr"] = rate
