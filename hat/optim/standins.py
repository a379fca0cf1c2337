"""Showing an optimizer the parts of its parameters that may move, in place of the parameters, for one step.

An optimizer that treats every element by itself takes the same step on the parts, and makes and keeps its state for
them alone. Between steps it holds the whole parameters; what extends over one is then kept as `blocks.pack` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hat.network.moving import Blocks
from hat.units.blocks import Block, cut, join, pack, unpack
from hat.units.change import Changes, applied

ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.ASGD,
)

WHOLE = (Block(),)

State = dict[str, Any]


def can_stand_in(optimizer: torch.optim.Optimizer) -> bool:
    """Every element moves by itself, and views may be given: fused kernels walk dense memory."""
    plain = not any(group.get("fused") or group.get("differentiable") for group in optimizer.param_groups)
    return type(optimizer) in ELEMENTWISE and plain


class StandIns:
    """The stand-ins of an optimizer during a step.

    Args:
        optimizer: see `can_stand_in`.
        blocks: of the parameters that are to be replaced; one with none is hidden.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, blocks: Blocks) -> None:
        self.optimizer, self.blocks = optimizer, blocks
        self.groups = [group["params"] for group in optimizer.param_groups]
        self.parts = {p: cut(p.detach(), found) for p, found in blocks.items()}
        known = {p: optimizer.state[p] for p in blocks if p in optimizer.state}
        states = {p: parted(state, p, blocks[p]) for p, state in known.items()}  # may raise, so before anything changes
        for parameter, own in states.items():
            del optimizer.state[parameter]
            optimizer.state.update(zip(self.parts[parameter], own, strict=True))
        self._enter()

    @contextmanager
    def away(self) -> Iterator[None]:
        """For the length of a closure, which clears and fills the gradients of the whole parameters."""
        self._put_back()
        yield
        self._enter()

    def _enter(self) -> None:
        """Into the groups, with the gradients that the parameters have now."""
        for group in self.optimizer.param_groups:
            group["params"] = [part for p in group["params"] for part in self.parts.get(p, [p])]
        for parameter, parts in self.parts.items():
            grads = [None] * len(parts) if parameter.grad is None else cut(parameter.grad, self.blocks[parameter])
            for part, grad in zip(parts, grads, strict=True):
                part.grad = grad

    def leave(self) -> None:
        """Put the parameters back for good."""
        self._put_back()
        for parameter, parts in self.parts.items():
            states = [self.optimizer.state.pop(part, {}) for part in parts]
            if any(states):
                self.optimizer.state[parameter] = united(states, parts)

    def _put_back(self) -> None:
        for group, whole in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["params"] = whole


def parted(state: State, parameter: Tensor, blocks: Sequence[Block]) -> list[State]:
    """A parameter's state as one a block; what does not extend over it, as a counter, is there for each.

    Raises:
        ValueError: it is of other blocks.
    """
    parts: list[State] = [{} for _ in blocks]
    for name, value in state.items():
        extends = isinstance(value, list) or (isinstance(value, Tensor) and value.dim() == parameter.dim())
        # The first part keeps a counter itself: a CUDA graph may know where it is.
        values = (
            unpack(value, blocks, parameter) if extends else [value, *(_own(value) for _ in blocks[1:])][: len(parts)]
        )
        for part, own in zip(parts, values, strict=True):
            part[name] = own
    return parts


def united(states: list[State], parts: Sequence[Tensor]) -> State:
    """What `parted` was given."""
    found: State = {}
    for name, first in states[0].items():
        values = [state[name] for state in states]
        extends = isinstance(first, Tensor) and first.shape == parts[0].shape
        found[name] = pack(values) if extends else first
    return found


def moved(
    optimizer: torch.optim.Optimizer, changes: Changes, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]
) -> None:
    """Let the states of an optimizer follow their parameters, and shrink to what may move.

    A state that does not have its parameter's dimensions, as the history of LBFGS, is of other places now: it is
    dropped, and starts anew. One that does not fit its parameter stays as it is, for the next step to refuse.

    Args:
        optimizer: of any kind.
        changes, before, after, like: see `hat.network.moving.Follower`.
    """
    parts = can_stand_in(optimizer)
    for parameter, state in list(optimizer.state.items()):
        old, new = before.get(parameter, WHOLE), after.get(parameter, WHOLE)
        was = like.get(parameter, parameter)
        try:
            whole = {name: _whole(value, old, was) for name, value in state.items()} if parts else state
        except ValueError:  # of other blocks: the next step says so, the task ends all the same
            continue
        if changes and not all(_follows(value, was) for value in whole.values()):
            del optimizer.state[parameter]
            continue
        found = {name: _moved(value, parameter, changes) for name, value in whole.items()}
        if parts and list(new) != list(WHOLE):
            found = united(parted(found, parameter, new), cut(parameter, new)) if new else {}
        optimizer.state[parameter] = found


def drop_finished(optimizer: torch.optim.Optimizer, frozen: Iterable[Tensor]) -> None:
    """Take what is frozen for good out of an optimizer: a step would visit the heads of all finished tasks."""
    gone = set(frozen)
    for parameter in gone & optimizer.state.keys():
        del optimizer.state[parameter]
    for group in optimizer.param_groups:
        group["params"][:] = [parameter for parameter in group["params"] if parameter not in gone]


def _whole(value: Any, blocks: Sequence[Block], parameter: Tensor) -> Any:
    """A state that extends over the parameter, all of it; 0 where nothing was kept."""
    packed = isinstance(value, list) and all(isinstance(part, Tensor) for part in value)
    if packed or (isinstance(value, Tensor) and len(blocks) == 1 and value.shape == parameter[blocks[0].where].shape):
        return join(unpack(value, blocks, parameter), blocks, parameter)
    return value


def _follows(value: Any, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor):
        return not isinstance(value, Mapping | Sequence) or isinstance(value, str)
    same = value.dim() == parameter.dim() and all(
        a in (1, b) for a, b in zip(value.shape, parameter.shape, strict=True)
    )
    return same or value.numel() == 1


def _moved(value: Any, parameter: Tensor, changes: Changes) -> Any:
    extends = isinstance(value, Tensor) and value.dim() == parameter.dim()
    return applied(value, changes.get(parameter, ())) if extends else value


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
