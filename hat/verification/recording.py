"""Record what every module of a network computes for a task, so that a later comparison finds a changed module.

A recording takes few bytes: digests and samples. During the recording, shared weights that the task does not use are 0.
Without this, the training of a later task would change the recorded output of a layer whose gate comes further on.
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
"""The name that stands for the model itself among the names of modules."""

_SAMPLED = 256  # elements


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        name: of the module in the model.
        number: of the call, among the calls of this module.
        inputs, output: digests of all bits, except that -0 counts as 0.
        sample: at most 256 elements of the output, evenly spaced, on the CPU.
    """

    name: str
    number: int
    inputs: bytes
    output: bytes
    sample: Tensor


def record(model: HATModel, task: int, run: Callable[[], Any]) -> list[Call]:
    """Record a forward pass.

    Args:
        model: the model.
        task: a finished task.
        run: makes the forward pass of the task.

    Returns:
        The calls of all modules, in the order in which they end.
    """
    named = [(WHOLE, model), *((f"body.{name}".rstrip("."), module) for name, module in model.body.named_modules())]
    calls: list[Call] = []
    with ExitStack() as stack:
        stack.enter_context(_of_this_task_alone(model, task))
        for name, module in [*named, (f"heads.{task}", model.heads[task])]:
            _listen(stack, name, module, calls)
        run()
    return calls


def first_difference(calls: Sequence[Call], earlier_calls: Sequence[Call]) -> tuple[Call, Call] | None:
    """The first call whose output differs from the earlier call although the inputs are equal.

    Returns:
        (call, earlier call), or None if no output differs.
    """
    earlier_by_key = {(call.name, call.number): call for call in earlier_calls}
    for call in calls:
        earlier = earlier_by_key.get((call.name, call.number))
        if earlier is not None and earlier.inputs == call.inputs and earlier.output != call.output:
            return call, earlier
    return None


def _listen(stack: ExitStack, name: str, module: nn.Module, calls: list[Call]) -> None:
    """Append the calls of a module. Its inputs are taken before all other hooks, its output after all other hooks."""
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
    """Inside the block, weights that the task does not use are 0. Tensors of the model are replaced, not written."""
    with having_used(model, [task], reserved=False):
        locks = {p: lock for p, lock in model.locks().items() if lock is not None}
        used_weights = {p: torch.where(rate(lock, p) == 1, 0, p.detach()) for p, lock in locks.items()}
    all_weights = {p: p.data for p in used_weights}
    task_stacks = [(s.module, s.name.rpartition(".")[2], s.values, s.read) for s in stacks(model)]
    try:
        for p, values in used_weights.items():
            p.data = values
        for module, name, values, read in task_stacks:
            module._buffers[name] = torch.where(read, values, 0)
        yield
    finally:
        for p, values in all_weights.items():
            p.data = values
        for module, name, values, _ in task_stacks:
            module._buffers[name] = values


@contextmanager
def having_used(model: HATModel, tasks: Sequence[int], *, reserved: bool = True) -> Iterator[None]:
    """Inside the block, the model locks only what these finished tasks use.

    Args:
        model: the model.
        tasks: ids of finished tasks.
        reserved: whether reserved units (`Gate.reserved`) are locked too.
    """
    free_before = [(gate, gate.free) for gate in model.gates.values()]
    try:
        for gate, free in free_before:
            rows = gate.masks[[task for task in tasks if task < gate.tasks]]
            used = torch.cat([rows, gate.reserved[None] if reserved else torch.zeros_like(free)[None]]).amax(0)
            gate.free = 1 - used
        yield
    finally:
        for gate, free in free_before:
            gate.free = free


def _tensors(value: Any) -> Iterator[Tensor | str]:
    """The tensors in a nested value, and a text for every other value that can make a difference."""
    for part in flat(value, keys=True):
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, Iterable) and not isinstance(part, str | bytes):
            yield from _tensors(list(part))
        else:
            yield repr(part) if isinstance(part, str | bytes | int | float | None) else type(part).__name__


def _digest(value: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in _tensors(value):
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(_plain(part).view(torch.uint8).numpy())  # type: ignore[arg-type]
        else:
            digest.update(part.encode())
    return digest.digest()


def _sample(value: Any) -> Tensor:
    first = next((part for part in _tensors(value) if isinstance(part, Tensor)), torch.zeros(0))
    flat = first.detach().flatten()
    return flat[:: max(-(-len(flat) // _SAMPLED), 1)].cpu().clone()


def _plain(tensor: Tensor) -> Tensor:
    """The elements of a tensor, [numel], on the CPU, contiguous, with 0 for -0."""
    flat = tensor.detach().flatten().cpu().contiguous()
    return flat + 0 if flat.is_floating_point() or flat.is_complex() else flat
