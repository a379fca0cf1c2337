"""Stand-ins: for one step, an optimizer holds the parts of its parameters that may move, instead of the parameters.

An optimizer that treats every element by itself takes the same step on the parts, and makes and keeps its state for
the parts alone. Between steps the optimizer holds the whole parameters; states are then packed by `blocks.pack`.

For example, a weight [10, 4] whose first 3 rows are locked has one block, `weight[3:]`. In a step, SGD with momentum
holds this view [7, 4], and its momentum buffer is [7, 4] too. After the step, SGD holds the weight again, and
`state[weight]["momentum_buffer"]` is the buffer [7, 4].

If a part holds locked elements among free ones, its stand-in is a copy. After the step only free elements are written
back. So no optimizer ever writes to a locked element: other threads may serve finished tasks during the step, and an
error or Ctrl-C may end the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat.network.moving import Blocks
from hat.units.blocks import Block, cut, join, pack, unpack
from hat.units.change import Changes, applied
from hat_kernels import Lock

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

OTHERS = tuple(getattr(torch.optim, name) for name in ("Adafactor", "Muon") if hasattr(torch.optim, name))
"""Other optimizers of torch that know their parameters only by their groups. LBFGS keeps a list of its own."""

WHOLE = (Block(),)

State = dict[str, Any]


def can_stand_in(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer moves every element by itself and accepts views. Fused kernels accept dense memory only."""
    plain = not any(group.get("fused") or group.get("differentiable") for group in optimizer.param_groups)
    return type(optimizer) in ELEMENTWISE and plain


def can_stand_in_whole(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer takes the same step on copies of whole parameters."""
    return type(optimizer) in (*ELEMENTWISE, *OTHERS) and not any(
        g.get("differentiable") for g in optimizer.param_groups
    )


class StandIns:
    """The stand-ins of an optimizer during a step.

    Args:
        optimizer: see `can_stand_in`.
        blocks: the blocks of every parameter to replace. A parameter without blocks is hidden from the optimizer.
        frozen: more parameters to hide. The optimizer keeps their states, because the user may train them again.
        whole: every parameter is one block, and its state stays as it is; see `can_stand_in_whole`.

    Attributes:
        views: the blocks of every replaced parameter, views of it.
        parts: the stand-ins of every replaced parameter: these views, but a copy where some elements are locked.

    Raises:
        ValueError: a state of the optimizer has other blocks.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, blocks: Blocks, frozen: Sequence[Tensor] = (), *, whole: bool = False
    ) -> None:
        self.optimizer, self.blocks, self.whole = optimizer, {**blocks, **dict.fromkeys(frozen, ())}, whole
        self.groups = [group["params"] for group in optimizer.param_groups]
        self.views = {p: cut(p.detach(), parameter_blocks) for p, parameter_blocks in self.blocks.items()}
        self.parts = {
            p: [
                view if block.free else torch.empty_like(view)
                for view, block in zip(views, self.blocks[p], strict=True)
            ]
            for p, views in self.views.items()
        }
        whole_states = {p: optimizer.state[p] for p in blocks if p in optimizer.state}
        # `parted` may raise, so it comes before anything changes.
        part_states = {p: [state] if whole else parted(state, p, blocks[p]) for p, state in whole_states.items()}
        self.hidden = {p: optimizer.state[p] for p in frozen if p in optimizer.state}
        try:
            for parameter, states in part_states.items():
                optimizer.state.update(zip(self.parts[parameter], states, strict=True))
                del optimizer.state[parameter]
            for parameter in self.hidden:
                del optimizer.state[parameter]
            self._enter()
        except BaseException:
            self.leave(write=False)
            raise

    @contextmanager
    def away(self) -> Iterator[None]:
        """Put the parameters back inside the block: a closure clears and fills the gradients of whole parameters."""
        self._put_back()
        yield
        self._enter()

    def _enter(self) -> None:
        """Put the stand-ins into the groups, with the present values and gradients of the parameters."""
        for part, view, _ in self._copies():
            part.copy_(view)
        for group in self.optimizer.param_groups:
            group["params"] = [part for p in group["params"] for part in self.parts.get(p, [p])]
        for parameter, parts in self.parts.items():
            grads = [None] * len(parts) if parameter.grad is None else cut(parameter.grad, self.blocks[parameter])
            for part, grad in zip(parts, grads, strict=True):
                part.grad = grad

    def leave(self, *, write: bool = True) -> None:
        """Put the parameters and their states back. A call that was interrupted may be repeated.

        Args:
            write: write the free elements of copies back.
        """
        self._put_back()
        for part, view, lock in self._copies() if write else ():
            view.copy_(hat_kernels.lock_update_(part, view, lock))
        for parameter, parts in self.parts.items():
            states = [self.optimizer.state.get(part, {}) for part in parts]
            if states and all(states):
                self.optimizer.state[parameter] = states[0] if self.whole else united(states, parts)
            for part in parts:
                self.optimizer.state.pop(part, None)
        self.optimizer.state.update(self.hidden)

    def _copies(self) -> Iterator[tuple[Tensor, Tensor, Lock]]:
        """Every stand-in that is a copy, with the view of its parameter and the lock of this part."""
        for parameter, blocks in self.blocks.items():
            for part, view, block in zip(self.parts[parameter], self.views[parameter], blocks, strict=True):
                if not block.free:
                    assert block.lock is not None
                    yield part, view, block.lock

    def _put_back(self) -> None:
        for group, whole in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["params"] = whole


def parted(state: State, parameter: Tensor, blocks: Sequence[Block]) -> list[State]:
    """Split the state of a parameter into one state a block.

    A value that does not extend over the parameter, such as a step counter, is copied for every block.

    Raises:
        ValueError: the state has other blocks.
    """
    parts: list[State] = [{} for _ in blocks]
    for name, value in state.items():
        extends = isinstance(value, list) or (isinstance(value, Tensor) and value.dim() == parameter.dim())
        # The first block keeps the counter tensor itself, because a CUDA graph may have recorded its address.
        values = (
            unpack(value, blocks, parameter) if extends else [value, *(_copy(value) for _ in blocks[1:])][: len(parts)]
        )
        for part, part_value in zip(parts, values, strict=True):
            part[name] = part_value
    return parts


def united(states: list[State], parts: Sequence[Tensor]) -> State:
    """Unite the states of the blocks to the state of their parameter: the inverse of `parted`."""
    state: State = {}
    for name, first in states[0].items():
        values = [part_state[name] for part_state in states]
        extends = isinstance(first, Tensor) and first.shape == parts[0].shape
        state[name] = pack(values) if extends else first
    return state


def moved(
    optimizer: torch.optim.Optimizer, changes: Changes, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]
) -> None:
    """Move the states of an optimizer with their parameters, and shrink them to the blocks that may still move.

    A state without the dimensions of its parameter, such as the history of LBFGS, cannot be moved. It is dropped, and
    the optimizer starts a new one. A state that does not fit its parameter stays as it is, and the next step refuses
    it.

    Args:
        optimizer: any torch optimizer.
        changes, before, after, like: see `hat.network.moving.Follower`.
    """
    parts = can_stand_in(optimizer)
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer._numel_cache = None  # the number of all elements, which may have grown
    for parameter, state in list(optimizer.state.items()):
        old, new = before.get(parameter, WHOLE), after.get(parameter, WHOLE)
        old_tensor = like.get(parameter, parameter)
        try:
            whole = {name: _whole(value, old, old_tensor) for name, value in state.items()} if parts else state
            if changes and not all(_can_follow(value, old_tensor) for value in whole.values()):
                del optimizer.state[parameter]
                continue
            moved_state = {name: _moved(value, parameter, changes) for name, value in whole.items()}
            if parts and not new:  # all is locked: an optimizer takes an empty state for a broken one
                del optimizer.state[parameter]
                continue
            if parts and list(new) != list(WHOLE):
                moved_state = united(parted(moved_state, parameter, new), cut(parameter, new))
        except ValueError:  # the state fits other blocks: the next step says so, but the task may end
            continue
        optimizer.state[parameter] = moved_state


def _whole(value: Any, blocks: Sequence[Block], parameter: Tensor) -> Any:
    """Join a value that was kept for the blocks of a parameter; it is 0 outside of the blocks. Others stay."""
    packed = isinstance(value, list) and all(isinstance(part, Tensor) for part in value)
    if packed or (isinstance(value, Tensor) and len(blocks) == 1 and value.shape == parameter[blocks[0].where].shape):
        return join(unpack(value, blocks, parameter), blocks, parameter)
    return value


def _can_follow(value: Any, parameter: Tensor) -> bool:
    """Whether a value of a state has the dimensions of its parameter, or is a single number."""
    if not isinstance(value, Tensor):
        return not isinstance(value, Mapping | Sequence) or isinstance(value, str)
    same = value.dim() == parameter.dim() and all(
        a in (1, b) for a, b in zip(value.shape, parameter.shape, strict=True)
    )
    return same or value.numel() == 1


def _moved(value: Any, parameter: Tensor, changes: Changes) -> Any:
    extends = isinstance(value, Tensor) and value.dim() == parameter.dim()
    return applied(value, changes.get(parameter, ())) if extends else value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
