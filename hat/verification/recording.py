"""What the modules of a network answer for a task, in few bytes, so that a later look finds the one that has changed.

Of shared weights only those count here which the task uses: the rest is 0 in the forward pass that is recorded, as what
others train would show in layers that are gated further on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hat.life.model import HATModel
from hat.network.reading import stacks
from hat.tracing.trees import flat
from hat_kernels.lock import rate

WHOLE = "model"
"""The name of the model among those of its modules."""

_SAMPLED = 256


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        name: of the module in the model.
        number: of the call among those of this module.
        inputs, output: digests of every bit, but that 0 has no sign.
        sample: at most 256 elements of the output, evenly spaced, on the CPU.
    """

    name: str
    number: int
    inputs: bytes
    output: bytes
    sample: Tensor


def record(model: HATModel, task: int, run: Callable[[], Any]) -> list[Call]:
    """The calls of modules while `run` lets the model answer for a finished task, in the order in which they end."""
    named = [(WHOLE, model), *((f"body.{name}".rstrip("."), module) for name, module in model.body.named_modules())]
    calls: list[Call] = []
    with ExitStack() as stack:
        stack.enter_context(_of_this_task_alone(model, task))
        for name, module in [*named, (f"heads.{task}", model.heads[task])]:
            _listen(stack, name, module, calls)
        run()
    return calls


def first_difference(now: Sequence[Call], then: Sequence[Call]) -> tuple[Call, Call] | None:
    """The first call that had another result though it got the same; None if there is none."""
    known = {(call.name, call.number): call for call in then}
    for call in now:
        before = known.get((call.name, call.number))
        if before is not None and before.inputs == call.inputs and before.output != call.output:
            return call, before
    return None


def _listen(stack: ExitStack, name: str, module: nn.Module, calls: list[Call]) -> None:
    """Inputs are what comes before anybody's hooks, the output what leaves behind them."""
    waiting: list[bytes] = []
    count = 0

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        waiting.append(_digest((args, kwargs)))

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        nonlocal count
        calls.append(Call(name, count, waiting.pop(), _digest(output), _sample(output)))
        count += 1

    for handle in (
        module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ):
        stack.callback(handle.remove)


@contextmanager
def _of_this_task_alone(model: HATModel, task: int) -> Iterator[None]:
    """Inside the block, what the task does not use is 0; no memory of the model is written to."""
    with having_used(model, [task], reserved=False):
        locks = {p: lock for p, lock in model.locks().items() if lock is not None}
        used = {p: torch.where(rate(lock, p) == 1, 0, p.detach()) for p, lock in locks.items()}
    whole = {p: p.data for p in used}
    found = [(s.module, s.name.rpartition(".")[2], s.values, s.read) for s in stacks(model)]
    try:
        for p, values in used.items():
            p.data = values
        for module, name, values, read in found:
            module._buffers[name] = torch.where(read, values, 0)
        yield
    finally:
        for p, values in whole.items():
            p.data = values
        for module, name, values, _ in found:
            module._buffers[name] = values


@contextmanager
def having_used(model: HATModel, tasks: Sequence[int], *, reserved: bool = True) -> Iterator[None]:
    """Inside the block, the locks of a model are those of these finished tasks, with or without what is reserved."""
    before = [(gate, gate.free) for gate in model.gates.values()]
    try:
        for gate, free in before:
            rows = gate.masks[[task for task in tasks if task < gate.tasks]]
            used = torch.cat([rows, gate.reserved[None] if reserved else torch.zeros_like(free)[None]]).amax(0)
            gate.free = 1 - used
        yield
    finally:
        for gate, free in before:
            gate.free = free


def _tensors(value: Any) -> Iterator[Tensor | str]:
    """The tensors in a nested value, and the text of what else can make a difference."""
    for part in flat(value, keys=True):
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Iterable) and not isinstance(part, str | bytes):
            yield from _tensors(list(part))
        else:
            yield repr(part) if isinstance(part, str | bytes | int | float | None) else type(part).__name__


def _digest(value: Any) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in _tensors(value):
        if isinstance(part, Tensor):
            found.update(f"{part.dtype}{tuple(part.shape)}".encode())
            found.update(_plain(part).view(torch.uint8).numpy())  # type: ignore[arg-type]
        else:
            found.update(part.encode())
    return found.digest()


def _sample(value: Any) -> Tensor:
    first = next((part for part in _tensors(value) if isinstance(part, Tensor)), torch.zeros(0))
    flat = first.detach().flatten()
    return flat[:: max(-(-len(flat) // _SAMPLED), 1)].cpu().clone()


def _plain(tensor: Tensor) -> Tensor:
    """[numel] on the CPU, side by side in memory, without a negative 0."""
    flat = tensor.detach().flatten().cpu().contiguous()
    return flat + 0 if flat.is_floating_point() or flat.is_complex() else flat
