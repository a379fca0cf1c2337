"""Per-task tensors: tensors that every task has for itself, because they lie along no gate, as a norm's statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hat.arguments import check_arguments, check_whole, got
from hat.units.state import LEARNING, OPEN, PLAIN, Finished, PerSample, State


class PerTask(nn.Module):
    """A module with per-task tensors: every task has its own values.

    The values of the current task are trained as any other parameter and need no lock. When the task ends they are
    copied, and nobody writes into the copy. Every task starts from the same values. The values of all finished tasks
    lie in one buffer, so that a step takes no longer with every task learned.

    A per-task tensor `name`, which `_keep` declares, is three tensors:

    - `name` [...]: the values of the current task, a parameter if they are learned, else a buffer
    - `name_initial` [...], a buffer: the values that every task starts from
    - `name_tasks` [T, ...], a buffer: the values of the finished tasks

    Attributes:
        kept: the names of the per-task tensors.
        state: says what a forward pass answers for, see `State.answer`.
    """

    state: State

    def __init__(self) -> None:
        super().__init__()
        self.kept: tuple[str, ...] = ()
        self.share(State())

    def _keep(self, name: str, values: Tensor | None, *, learned: bool) -> None:
        """Declare a per-task tensor.

        Args:
            name: the name of the attribute, which is not in use.
            values: the values that every task starts from; `name_initial` shares their memory. None: the attribute is
                None.
            learned: the tensor is a parameter. It has the `requires_grad` of `values`, if `values` is a parameter.
        """
        if values is None:
            (self.register_parameter if learned else self.register_buffer)(name, None)
            return
        initial, trained = values.detach(), not isinstance(values, nn.Parameter) or values.requires_grad
        if learned:
            self.register_parameter(name, nn.Parameter(initial.clone(), requires_grad=trained))
        else:
            self.register_buffer(name, initial.clone())
        self.register_buffer(f"{name}_initial", initial)
        self.register_buffer(f"{name}_tasks", initial.new_zeros(0, *initial.shape))
        self.kept += (name,)

    def share(self, state: State) -> None:
        """Follow the answer of `state`. The owner of `state` keeps it in its own `state_dict`."""
        check_arguments(PerTask.share, locals())
        self.__dict__["state"] = state  # not a submodule: one state is shared by many modules

    @property
    def is_learning(self) -> bool:
        """The forward pass uses the values that are trained now, so it may write to them."""
        answer = self.state.answer
        return answer is LEARNING or answer is PLAIN

    def of_task(self, name: str) -> Any:
        """The values [...] for the task that `state` answers for; [B, ...] if every sample has a task; or None."""
        answer = self.state.answer
        if not isinstance(name, str) or (name not in self.kept and not hasattr(self, name)):
            raise ValueError(f"name: expected one of {self.kept}, got {got(name)}")
        if name not in self.kept or answer is LEARNING or answer is PLAIN:
            return getattr(self, name)
        if answer is OPEN:
            return getattr(self, f"{name}_initial")
        return getattr(self, f"{name}_tasks")[answer.task if isinstance(answer, Finished) else answer.tasks]

    @torch.no_grad()
    def begin_task(self) -> None:
        """Start from the initial values, in place."""
        for name in self.kept:
            getattr(self, name).copy_(getattr(self, f"{name}_initial"))

    @torch.no_grad()
    def commit(self) -> None:
        """Append the values of the current task to the values of the finished tasks."""
        for name in self.kept:
            stack = f"{name}_tasks"
            setattr(self, stack, torch.cat([getattr(self, stack), getattr(self, name).detach()[None]]))

    def moved(self, name: str) -> list[tuple[Tensor, int]]:
        """(tensor, leading task dimensions) of the three tensors of this name, for code that moves units in place.

        Dimension `dim` of the current values is dimension `dim` plus that number of the tensor. The gradient of the
        current values is not in the list.
        """
        check_arguments(PerTask.moved, locals())
        if name not in self.kept:
            return []
        return [(getattr(self, name), 0), (getattr(self, f"{name}_initial"), 0), (getattr(self, f"{name}_tasks"), 1)]

    def current(self) -> Iterator[tuple[str, Tensor]]:
        """(name, values [...]) of the current task."""
        for name in self.kept:
            yield name, getattr(self, name)

    def stacks(self) -> Iterator[tuple[str, Tensor]]:
        """(name, values [T, ...]) of the finished tasks."""
        for name in self.kept:
            yield name, getattr(self, f"{name}_tasks")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, stack in list(self.stacks()):
            loaded = state_dict.get(f"{prefix}{name}_tasks")
            if loaded is not None and loaded.shape != stack.shape and loaded.shape[1:] == stack.shape[1:]:
                setattr(self, f"{name}_tasks", stack.new_zeros(loaded.shape))  # the file may hold more or fewer tasks
        super()._load_from_state_dict(state_dict, prefix, *args)


class PerTaskParameter(PerTask):
    """One parameter that every task has for itself, for example a table of relative positions.

    Args:
        values: the values that every task starts from; `value_initial` shares their memory.
        rank: the number of dimensions of the tensor that the parameter is broadcast with, of which the first is the
            batch. If every sample has a task, the parameter's own dimensions become the last of these. None: the number
            is not known.

    Raises:
        TypeError: `values` is not a dense tensor of floating or complex numbers.
        ValueError: `rank` is neither None nor an int of at least 1.
    """

    value: Tensor

    def __init__(self, values: Tensor, *, rank: int | None = None) -> None:
        super().__init__()
        check_arguments(PerTaskParameter, locals())
        if not ((values.is_floating_point() or values.is_complex()) and values.layout is torch.strided):
            raise TypeError(f"values: expected a dense tensor of floating or complex numbers, got {got(values)}")
        if rank is not None:
            check_whole("rank", rank, least=1)
        self.rank = rank
        self._keep("value", values, learned=True)

    def forward(self) -> Tensor:
        """The values [...] of the present task. If every sample has a task: [B, ...], of `rank` dimensions if known."""
        values: Tensor = self.of_task("value")
        if self.rank is None or not isinstance(self.state.answer, PerSample):
            return values
        shape = values.shape[1:]
        if len(shape) == self.rank and shape[0] == 1:
            return values.squeeze(1)
        return values.view(len(values), *[1] * (self.rank - 1 - len(shape)), *shape)


def per_task(body: nn.Module) -> dict[str, PerTask]:
    """The modules of a network with per-task tensors, by name, every module once."""
    return {name: module for name, module in body.named_modules() if isinstance(module, PerTask)}
