"""Whether a network takes a task a sample in one pass, found by trying."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from hat.network.network import Network
from hat.network.tolerance import SUMS, difference
from hat.units import buffers
from hat.units.state import Finished, PerSample

_TASKS = 2
_CHANGE, _OFFSET = 0.3, 0.05


@torch.no_grad()
def in_one_pass(model: Network, x: Any, batch: Tensor) -> bool | None:
    """Whether the features of every sample are those of its own task, whatever tasks the others have.

    They are where the first dimension of all that a gate meets is the batch. They are not where samples become
    windows or tokens along it, come second, or meet in the statistics of a batch. Tried with two made-up tasks, of
    which every gate and every tensor of a task's own has other values:

    - with one of them for all samples, it answers as for that task, to rounding;
    - with the other one for every second sample, the remaining ones answer the same, bit by bit.

    Args:
        model: its weights, gates, mode and buffers are as before afterwards.
        x: what the body takes.
        batch: the tensor of it whose first dimension is the batch, of two samples or more.

    Returns:
        None: the tasks answer the same on this batch, or what they answer is not finite, which shows nothing.
    """
    tasks = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
    with _made_up(model):
        expected = model.features_of(x, Finished(0))
        try:
            with redirect_stderr(io.StringIO()):  # a graph prints where it fails, besides
                same = model.features_of(x, PerSample(tasks))
                tasks[1::2] = 1
                other = model.features_of(x, PerSample(tasks))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a gate that meets another number of rows says so, and so does a sum that does not fit
            return False
    if not same.shape == other.shape == expected.shape or len(expected) != len(batch):
        return False
    if not expected.isfinite().all():  # one bad sample says nothing about the network
        return None
    if not torch.equal(same[::2], other[::2]) or difference(same, expected, SUMS):
        return False
    return None if torch.equal(same, other) else True


@contextmanager
def _made_up(model: Network) -> Iterator[None]:
    """Two tasks that are none, in evaluation mode, in place of those that are finished."""
    generator = torch.Generator().manual_seed(0)

    def drawn(values: Tensor) -> Tensor:
        return torch.rand(_TASKS, *values.shape, generator=generator).to(values.device)

    stacks: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    for gate in model.gates.values():
        stacks.append((gate, "masks", gate.masks, (1 + drawn(gate.used)) / 2))  # no unit is off
    for module in model.per_task.values():
        for name, stack in module.stacks():
            values = getattr(module, f"{name}_initial")
            if values.is_floating_point():  # not alike, as those of a fresh norm are; and a variance stays positive
                values = values * (1 + _CHANGE * drawn(values)) + _OFFSET * drawn(values)
            else:
                values = torch.stack([values] * _TASKS)
            stacks.append((module, f"{name}_tasks", stack, values.to(stack.dtype)))
    modes = [(part, part.training) for part in model.body.modules()]
    model.body.eval()
    try:
        with buffers.frozen(model.body):
            for owner, name, _, values in stacks:
                setattr(owner, name, values)
            yield
    finally:
        for owner, name, before, _ in stacks:
            setattr(owner, name, before)
        for part, training in modes:
            part.training = training
