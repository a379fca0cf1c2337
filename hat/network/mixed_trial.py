"""Checking whether one pass through the body gives the right features for a batch that mixes tasks.

One pass is right if the first dimension of every gated activation is the batch, as in a network of convolutions. One
pass is wrong if, for example, windows of an image become additional samples, tokens come before the batch, or samples
share the statistics of a batch. The check runs a copy of the body on made-up tasks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hat.network.copying import copied
from hat.network.network import Network
from hat.network.tolerance import SUMS, difference, varied
from hat.tracing.different import AllDifferent
from hat.tracing.trees import flat
from hat.tracing.untouched import untouched
from hat.units.buffers import Pass
from hat.units.locks import gates
from hat.units.per_task import per_task
from hat.units.state import Answer, Finished, PerSample

_A, _B, _NAN = range(3)
"""The made-up tasks. All values of the last one are NaN."""


@torch.no_grad()
def in_one_pass(model: Network, x: Any, batch: Tensor) -> bool | None:
    """Whether one pass gives every sample the features of its own task, whatever tasks the other samples have.

    Every gate and every task's own tensor has different values for the made-up tasks A and B, and NaN for a third one.
    One pass is right if these conditions hold:

    - No code of the body looks at the values of a tensor. So all batches of these shapes go the same way.
    - If all samples are of task A, one pass gives the features of a plain pass for A, to rounding.
    - A sample of task A keeps every bit of its features if other samples are of task B or of the task of NaN.

    The last condition is tried for every pair of samples. The samples are numbered in binary. For each digit, all
    samples with a 1 there change their task, then all samples with a 0. Two samples differ in some digit, so each of
    them has changed once while the other stayed. If a sample depended on the task of another sample, its features would
    change: sums, products and activations do not lose a NaN, and task B shows what comparisons and sorting do, which
    may lose one.

    Args:
        model: is not changed. Its parameters are used; all else is copied.
        x: the input of the body.
        batch: the tensor in `x` whose first dimension is the batch; two samples or more.

    Returns:
        True if one pass is right, False if it is wrong. None if this batch shows nothing, because the features are not
        finite, or do not depend on the task.
    """
    body = copied(model.body, {id(parameter): parameter for parameter in model.body.parameters()})
    _make_up_tasks(body)
    state = next(iter(gates(body).values())).state

    def features(answer: Answer) -> Tensor:
        with untouched(body), Pass(state, answer, body):  # so dropout draws the same numbers in every pass
            computed: Tensor = body(x)
        return computed

    with _Looks() as looks:
        expected = features(Finished(_A))
    if looks.seen:
        return False
    if not expected.isfinite().all():  # a sample with inf or NaN shows nothing about the network
        return None
    try:
        with redirect_stderr(io.StringIO()):  # a graph that fails prints where
            return _is_right(features, expected, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a gate meets another number of rows than the batch has, or shapes do not fit
        return False


def _is_right(features: Callable[[Answer], Tensor], expected: Tensor, batch: Tensor) -> bool | None:
    """The result of `in_one_pass`.

    Args:
        features: computes the features for an answer.
        expected: those of a plain pass for task A.
        batch: a tensor whose first dimension is the batch.
    """
    tasks = torch.full((len(batch),), _A, device=batch.device)
    all_of_a = features(PerSample(tasks))
    if len(expected) != len(batch) or difference(all_of_a, expected, SUMS):
        return False
    depends = False
    for changes in _codes(len(batch), batch.device):
        for other in (_B, _NAN):
            mixed = features(PerSample(torch.where(changes, other, tasks)))
            if not torch.equal(mixed[~changes], all_of_a[~changes]):
                return False
            depends |= not torch.equal(mixed[changes], all_of_a[changes])
    return True if depends else None


def _codes(samples: int, device: torch.device) -> Iterator[Tensor]:
    """[samples] bool, several: of any two samples, each is True once while the other is False."""
    numbers = torch.arange(samples, device=device)
    for digit in range((samples - 1).bit_length()):
        ones = (numbers >> digit) % 2 == 1
        yield ones
        yield ~ones


def _make_up_tasks(body: nn.Module) -> None:
    """Replace the finished tasks of a body by the made-up ones."""
    numbers = AllDifferent()
    for gate in gates(body).values():
        of_a, of_b = ((1 + numbers.take(gate.used.shape).to(gate.used)) / 2 for _ in range(2))  # no unit is off
        gate.masks = torch.stack([of_a, of_b, torch.full_like(of_a, torch.nan)])
    for module in per_task(body).values():
        for name, stack in module.stacks():
            values = getattr(module, f"{name}_initial")
            rows = [values] * 3
            if values.is_floating_point():  # different for every unit, unlike in a fresh norm; variances stay positive
                rows = [varied(values, numbers.take(values.shape)) for _ in range(2)]
                rows.append(torch.full_like(values, torch.nan))
            setattr(module, f"{name}_tasks", torch.stack(rows).to(stack.dtype))


class _Looks(TorchFunctionMode):
    """Notes whether code, in a plain pass, looks at values of tensors, so that it may go another way for other values.

    Attributes:
        seen: it has.
    """

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        picks = name == "__getitem__" and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in flat(args[1]))
        self.seen |= name in _LOOKING or picks
        return func(*args, **(kwargs or {}))


_LOOKING = {
    *("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "__contains__"),
    *("equal", "allclose", "is_nonzero", "nonzero", "argwhere", "masked_select", "bincount"),
    *("unique", "_unique2", "unique_dim", "unique_consecutive"),
}
"""The functions of torch whose result, or its shape, Python can decide by."""
