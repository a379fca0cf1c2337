"""Checking whether one pass through the body gives the right features for a batch that mixes tasks.

One pass is right if the first dimension of every gated activation is the batch, as in a network of convolutions. One
pass is wrong if, for example, windows of an image become additional samples, tokens come before the batch, or samples
share the statistics of a batch. The check runs the network on two made-up tasks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from hat.network.network import Network
from hat.network.tolerance import SUMS, difference, varied
from hat.tracing.untouched import evaluating
from hat.units import buffers
from hat.units.state import Finished, PerSample

_TASKS = 2


@torch.no_grad()
def in_one_pass(model: Network, x: Any, batch: Tensor) -> bool | None:
    """Whether one pass gives every sample the features of its own task, whatever tasks the other samples have.

    The network runs on two made-up tasks, A and B. Every gate and every task's own tensor has different values for A
    and for B. One pass is right if both conditions hold, here for a batch of four samples:

    - tasks [A, A, A, A] in one pass give the features of a plain pass for A, to rounding;
    - tasks [A, B, A, B] in one pass give samples 0 and 2 the same features as [A, A, A, A], bit for bit.

    Args:
        model: its weights, gates, mode and buffers are the same afterwards.
        x: the input of the body.
        batch: the tensor in `x` whose first dimension is the batch; two samples or more.

    Returns:
        True if one pass is right, False if it is wrong. None if this batch shows nothing, because A and B give the same
        features or the features are not finite.
    """
    task_ids = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
    with _made_up(model):
        expected = model.features_of(x, Finished(0))
        try:
            with redirect_stderr(io.StringIO()):  # a graph that fails prints where
                all_first = model.features_of(x, PerSample(task_ids))
                task_ids[1::2] = 1
                alternating = model.features_of(x, PerSample(task_ids))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a gate meets another number of rows than the batch has, or shapes do not fit
            return False
    if not all_first.shape == alternating.shape == expected.shape or len(expected) != len(batch):
        return False
    if not expected.isfinite().all():  # a sample with inf or NaN shows nothing about the network
        return None
    if not torch.equal(all_first[::2], alternating[::2]) or difference(all_first, expected, SUMS):
        return False
    return None if torch.equal(all_first, alternating) else True


@contextmanager
def _made_up(model: Network) -> Iterator[None]:
    """Replace the finished tasks by two made-up tasks, and set evaluation mode, inside the `with` block."""
    generator = torch.Generator().manual_seed(0)

    def drawn(values: Tensor) -> Tensor:
        return torch.rand(_TASKS, *values.shape, generator=generator).to(values.device)

    stacks: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    for gate in model.gates.values():
        stacks.append((gate, "masks", gate.masks, (1 + drawn(gate.used)) / 2))  # no unit is off
    for module in model.per_task.values():
        for name, stack in module.stacks():
            values = getattr(module, f"{name}_initial")
            if values.is_floating_point():  # different for every unit, unlike in a fresh norm; variances stay positive
                values = varied(values, drawn(values), drawn(values))
            else:
                values = torch.stack([values] * _TASKS)
            stacks.append((module, f"{name}_tasks", stack, values.to(stack.dtype)))
    try:
        with evaluating(model.body), buffers.frozen(model.body):
            for owner, name, _, values in stacks:
                setattr(owner, name, values)
            yield
    finally:
        for owner, name, before, _ in stacks:
            setattr(owner, name, before)
