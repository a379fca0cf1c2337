"""Locked units first: when a task ends, the units that it has used move right behind those that are locked already.

Then what is locked of a weight is one block at its front. No gradient is computed for it, no update is made, no
optimizer state is kept. The network computes the same function: every dimension that lies along the axis moves alike.
Units that were locked before keep their place, so that earlier tasks keep every bit: all that moves meets their
activations with an exact 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from hat.network.movable import movable, segments
from hat.network.network import Network
from hat.units.along import Along
from hat.units.blocks import Block
from hat.units.gate import Gate
from hat.units.per_task import PerTask


class Rearranged(Protocol):
    """What a dimension of a tensor is after units have changed places, gone or joined."""

    def __call__(self, values: Tensor) -> Tensor:
        """The values as they are from now on; themselves where they do not extend along the dimension."""


class Move(NamedTuple):
    """New places along one dimension of a tensor.

    Attributes:
        dim: 0 or 1.
        places: [groups, length / groups] int64, what comes to each place of every group; see `Along.groups`.
    """

    dim: int
    places: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """`values` in the new order; itself where it does not extend along `dim`."""
        if values.shape[self.dim] == 1:
            return values
        groups, length = self.places.shape
        if groups == 1 or self.dim == 0:
            return values.index_select(self.dim, self.places.flatten())
        grouped = values.reshape(groups, -1, length, *values.shape[2:])
        parts = [part.index_select(1, index) for part, index in zip(grouped, self.places, strict=True)]
        return torch.stack(parts).reshape(values.shape)


Moves = Mapping[Tensor, Sequence[Rearranged]]
"""Of every parameter that moves."""

Blocks = Mapping[Tensor, Sequence[Block]]
"""Of every shared parameter, see `Network.blocks`."""


class Follower(Protocol):
    """Keeps something for parts of the parameters, as an optimizer does."""

    def follow(self, moves: Moves, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]) -> None:
        """The parameters have moved, and others of their parts may move from now on.

        Args:
            moves: what has become of every parameter that changed.
            before, after: the blocks that may move.
            like: a tensor of the shape that it had, of every parameter whose shape has changed.
        """

    def forget(self, gone: Sequence[Tensor]) -> None:
        """A task is forgotten: what is kept for any parameter may tell of it, and these parameters are no more."""


_FOLLOWERS: WeakKeyDictionary[Network, WeakSet[Follower]] = WeakKeyDictionary()


def follow(model: Network, follower: Follower) -> None:
    """Tell `follower`, as long as it lives, whenever the units of `model` move."""
    _FOLLOWERS.setdefault(model, WeakSet()).add(follower)


@torch.no_grad()
def move(model: Network, stay: Mapping[Gate, Tensor], before: Blocks) -> None:
    """Move the units that the last task has used, and everything that belongs to them.

    Args:
        model: the task's masks are committed.
        stay: [units] bool of every gate that may be moved, the units that earlier tasks use.
        before: the blocks of the parameters before the task was committed.
    """
    orders = {gate: new for gate in movable(model) if gate in stay and (new := order(gate, stay[gate])) is not None}
    found = moves(orders)
    if model.outputs is not None and model.outputs in orders:
        found |= _heads(model, model.outputs, orders[model.outputs])
    _rearrange(orders, found)
    tell(model, found, before, {})


@torch.no_grad()
def settle(model: Network) -> None:
    """Let the free units lie as they lay at first, so that nothing tells which of them a forgotten task has used."""
    orders = {}
    for gate in movable(model):
        places = torch.arange(gate.units)
        free, origin = (gate.free == 1).cpu(), gate.origin.cpu()
        for here in segments(gate):
            left = here[free[here]]
            places[left] = left[origin[left].argsort()]
        if not torch.equal(places, torch.arange(gate.units)):
            orders[gate] = places.to(gate.origin.device)
    _rearrange(orders, moves(orders))


def renew(model: Network, gone: Sequence[Tensor]) -> None:
    """Tell the followers of a model that what is free has new values, and that these parameters are gone."""
    _tell(model, lambda follower: follower.forget(gone))


def _rearrange(orders: Mapping[Gate, Tensor], found: Moves) -> None:
    """Move parameters, gradients and what is the gates' own."""
    # All new values before the first copy: what fails until then leaves a network that computes the same.
    whole = [(p, p.grad, moved) for p, moved in found.items()]
    copies = [(t, apply(t, moved)) for p, grad, moved in whole for t in (p, grad) if t is not None]
    for target, values in copies:
        target.copy_(values)
    for gate, new in orders.items():
        gate.move(new)


def tell(model: Network, moves: Moves, before: Blocks, like: Mapping[Tensor, Tensor]) -> None:
    """Let all that follows the model know; see `Follower.follow`."""
    _tell(model, lambda follower: follower.follow(moves, before, model.blocks(), like))


def _tell(model: Network, what: Callable[[Follower], None]) -> None:
    errors = []
    for follower in list(_FOLLOWERS.get(model, ())):
        try:
            what(follower)
        except Exception as error:  # the others follow all the same
            errors.append(error)
    if errors:
        raise errors[0]


def _heads(model: Network, outputs: Gate, new: Tensor) -> dict[Tensor, list[Move]]:
    """The heads that read a unit that moves."""
    moved = new != torch.arange(len(new), device=new.device)
    reads = (outputs.masks[:, moved] != 0).any(1)
    index = expanded(new, model.features // outputs.units)[None]
    return {model.heads[task].weight: [Move(1, index)] for task in reads.nonzero().flatten().tolist()}


def order(gate: Gate, stay: Tensor) -> Tensor | None:
    """[units] int64, the unit that comes to each place; None where none moves.

    Args:
        gate: with the masks of the task that has just ended.
        stay: [units] bool, the units that earlier tasks use. Of the others, those that are used come first.
    """
    used, stay = (gate.used > 0.5).cpu(), stay.cpu()
    places = torch.arange(gate.units)
    found = places.clone()
    for here in segments(gate):
        left = here[~stay[here]]
        found[left] = torch.cat([left[used[left]], left[~used[left]]])
    return None if torch.equal(found, places) else found.to(gate.used.device)


def moves(orders: Mapping[Gate, Tensor]) -> dict[Tensor, list[Move]]:
    """How every parameter along the axes of these gates moves, their embeddings with them."""
    found: dict[Tensor, list[Move]] = {}
    seen = set()
    for gate, new in orders.items():
        found[gate.embedding] = [Move(0, new[None])]
        for member in gate.members:
            if isinstance(member.module, PerTask):
                for values, tasks in member.module.moved(member.name):
                    found.setdefault(values, []).append(Move(member.dim + tasks, _places(member, values, tasks, new)))
                continue
            key = (member.parameter, member.dim, gate)
            if member.parameter is not None and key not in seen:
                seen.add(key)
                found.setdefault(member.parameter, []).append(_move(member, new))
    return found


def _move(member: Along, new: Tensor) -> Move:
    assert member.parameter is not None
    places = _places(member, member.parameter, 0, new)
    if member.groups == 1 or member.dim == 0:
        return Move(member.dim, places)
    places = places.view(member.groups, -1)
    return Move(1, places % places.shape[1])


def _places(member: Along, values: Tensor, tasks: int, new: Tensor) -> Tensor:
    """[1, length] what comes to each place of a dimension; of values with this many dimensions of tasks before it."""
    index = expanded(new, member.repeat)
    if member.places is None:
        return index[None]
    length = values.shape[member.dim + tasks] * (member.groups if member.dim else 1)
    places = member.places.to(index.device)
    return torch.arange(length, device=index.device).index_copy(0, places, places[index])[None]


def expanded(new: Tensor, repeat: int) -> Tensor:
    """The order of indices, of which each unit has `repeat` in a row."""
    return (new[:, None] * repeat + torch.arange(repeat, device=new.device)).flatten()


def apply(values: Tensor, found: Sequence[Rearranged]) -> Tensor:
    """`values` after these moves."""
    for move in found:
        values = move(values)
    return values
