"""Tensors of which every task has its own: what lies along no gate, or can lie along none, as a norm's statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hat.units.state import LEARNING, OPEN, PLAIN, Finished, PerSample, State


class PerTask(nn.Module):
    """A module with tensors of which every task has its own.

    The current task's is trained as any other parameter and needs no lock; when the task ends it is copied, and nobody
    writes into the copy. Every task starts from the same values. Finished tasks' lie in one buffer, so that a step
    takes no longer with every task learned.

    Of a tensor `name` that was declared by `_keep` there are three:

    - `name` [...]: the current task's, a parameter if it is learned, else a buffer
    - `name_initial` [...], a buffer: what every task starts from
    - `name_tasks` [T, ...], a buffer: the finished tasks'

    Attributes:
        kept: the names.
        state: says what a forward pass answers for, see `State.answer`.
    """

    state: State

    def __init__(self) -> None:
        super().__init__()
        self.kept: tuple[str, ...] = ()
        self.share(State())

    def _keep(self, name: str, values: Tensor | None, *, learned: bool) -> None:
        """Declare a tensor.

        Args:
            name: of the attribute, no other's.
            values: what every task starts from; the buffer shares its memory. None: there is none.
            learned: it is a parameter, with `requires_grad` as `values` has it if that is a parameter.
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
        """Follow the answer of `state`, whose owner keeps it in its own `state_dict`."""
        self.__dict__["state"] = state  # not a submodule, as of a gate

    @property
    def is_learning(self) -> bool:
        """The current task answers, or there are no tasks: its tensors are trained, and may be written to."""
        answer = self.state.answer
        return answer is LEARNING or answer is PLAIN

    def of_task(self, name: str) -> Any:
        """The tensor [...] of what `state` answers for; [B, ...] for a task a sample; None if there is none."""
        answer = self.state.answer
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
        """Append the current task's to those of the finished ones."""
        for name in self.kept:
            stack = f"{name}_tasks"
            setattr(self, stack, torch.cat([getattr(self, stack), getattr(self, name).detach()[None]]))

    def moved(self, name: str) -> list[tuple[Tensor, int]]:
        """(tensor, leading task dimensions) of all that holds values of this name, for who moves units in place.

        A dimension `dim` of the current task's is `dim` plus that number of each; the gradient is not among them.
        """
        if name not in self.kept:
            return []
        return [(getattr(self, name), 0), (getattr(self, f"{name}_initial"), 0), (getattr(self, f"{name}_tasks"), 1)]

    def current(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the current task's."""
        for name in self.kept:
            yield name, getattr(self, name)

    def stacks(self) -> Iterator[tuple[str, Tensor]]:
        """(name, [T, ...]) of the finished tasks'."""
        for name in self.kept:
            yield name, getattr(self, f"{name}_tasks")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, own in list(self.stacks()):
            stack = state_dict.get(f"{prefix}{name}_tasks")
            if stack is not None and stack.shape != own.shape and stack.shape[1:] == own.shape[1:]:
                setattr(self, f"{name}_tasks", own.new_zeros(stack.shape))  # tasks are appended without limit
        super()._load_from_state_dict(state_dict, prefix, *args)


class PerTaskParameter(PerTask):
    """One free parameter of which every task has its own, as a table of relative positions.

    Args:
        values: what every task starts from; shares its memory.
        rank: how many dimensions that has which it is broadcast with, the batch first: with a task a sample its own
            are their last ones. None: not known.
    """

    value: Tensor

    def __init__(self, values: Tensor, *, rank: int | None = None) -> None:
        super().__init__()
        self.rank = rank
        self._keep("value", values, learned=True)

    def forward(self) -> Tensor:
        """The tensor of the present task, [...]; with a task a sample [B, ...], of `rank` dimensions if it can be."""
        found: Tensor = self.of_task("value")
        if self.rank is None or not isinstance(self.state.answer, PerSample):
            return found
        own = found.shape[1:]
        if len(own) == self.rank and own[0] == 1:
            return found.squeeze(1)
        return found.view(len(found), *[1] * (self.rank - 1 - len(own)), *own)


def per_task(body: nn.Module) -> dict[str, PerTask]:
    """The modules of a network with tensors of each task's own, by name, each once."""
    return {name: module for name, module in body.named_modules() if isinstance(module, PerTask)}
