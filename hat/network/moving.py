"""Locked units first: when a task ends, the units that it uses move right behind the units that are locked already.

Then the locked part of a weight is one block at its front. No gradient is computed for that block, no update is made,
and no optimizer state is kept. The network computes the same function, because every dimension along the axis moves
alike. Every earlier task keeps every bit: the units that it uses keep their place, and the gates of all other units are
exactly 0 for it.

Example: a hidden layer of 5 units between `first = Linear(3, 5)` and `second = Linear(5, 2)`, one gate.

    after task 0 the mask is       [0, 1, 0, 1, 0]
    `order` puts used units first  [1, 3, 0, 2, 4]    place 0 gets unit 1, place 1 gets unit 3, ...
    `changes_of` that order        first.weight and first.bias along dimension 0, second.weight along dimension 1,
                                   and the gate's embedding
    the mask is now                [1, 1, 0, 0, 0]    first.weight[:2] is locked, one block

Task 1 uses the units at places 0 and 3. Places 0 and 1 stay, because task 0 uses them. The order is [0, 1, 3, 2, 4],
the masks are [1, 1, 0, 0, 0] and [1, 0, 1, 0, 0], and the locked block is first.weight[:3]. `Gate.origin` says where
each unit lay at first: [1, 3, 2, 0, 4].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

from hat.network.movable import movable, segments
from hat.network.network import Network
from hat.units.along import Along
from hat.units.blocks import Block
from hat.units.change import Change, Changes, applied
from hat.units.gate import Gate
from hat.units.per_task import PerTask

Blocks = Mapping[Tensor, Sequence[Block]]
"""The blocks of every shared parameter, see `Network.blocks`."""


class Follower(Protocol):
    """An object that keeps tensors for parts of the parameters, as an optimizer keeps its states."""

    def follow(self, changes: Changes, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]) -> None:
        """Change the kept tensors as the parameters have changed.

        Args:
            changes: the changes of every parameter along whose axes units changed places, went or joined.
            before, after: the blocks that could move before the change, and those that may move now.
            like: for every parameter whose shape has changed, a tensor of the former shape.
        """

    def forget(self, gone: Sequence[Tensor]) -> None:
        """Drop the kept tensors of all parameters, because a task is forgotten. The model has lost those in `gone`."""


_FOLLOWERS: WeakKeyDictionary[Network, WeakSet[Follower]] = WeakKeyDictionary()


def follow(model: Network, follower: Follower) -> None:
    """From now on, tell `follower` when units of `model` change places, go or join. Only a weak reference is kept."""
    _FOLLOWERS.setdefault(model, WeakSet()).add(follower)


def followers(model: Network) -> list[Follower]:
    """The objects that follow the model."""
    return list(_FOLLOWERS.get(model, ()))


def tell(model: Network, changes: Changes, before: Blocks, like: Mapping[Tensor, Tensor]) -> None:
    """Call `Follower.follow` of all followers of the model."""
    _tell(model, lambda follower: follower.follow(changes, before, model.blocks(), like))


def renew(model: Network, gone: Sequence[Tensor]) -> None:
    """Call `Follower.forget` of all followers of the model: free elements have new values."""
    _tell(model, lambda follower: follower.forget(gone))


def _tell(model: Network, what: Callable[[Follower], None]) -> None:
    errors = []
    for follower in followers(model):
        try:
            what(follower)
        except Exception as error:  # the other followers are still called
            errors.append(error)
    if errors:
        raise errors[0]


@torch.no_grad()
def move(model: Network, stay: Mapping[Gate, Tensor], before: Blocks) -> None:
    """Move the units that the last task uses, with their weights, gradients, masks and optimizer states.

    Args:
        model: the model, after the masks of the task are committed.
        stay: [units] bool for every gate that may be moved, the units that earlier tasks use.
        before: the blocks of the parameters before the task was committed.
    """
    orders = {gate: new for gate in _may_move(model) if gate in stay and (new := order(gate, stay[gate])) is not None}
    changes = changes_of(orders)
    if model.outputs is not None and model.outputs in orders:
        changes |= _heads(model, model.outputs, orders[model.outputs])
    rearrange(orders, changes)
    tell(model, changes, before, {})


@torch.no_grad()
def settle(model: Network) -> None:
    """Put the free units back into their first order. Their order would tell which of them a forgotten task used."""
    orders = {}
    for gate in _may_move(model):
        places = torch.arange(gate.units)
        free, origin = (gate.free == 1).cpu(), gate.origin.cpu()
        for segment in segments(gate):
            left = segment[free[segment]]
            places[left] = left[origin[left].argsort()]
        if not torch.equal(places, torch.arange(gate.units)):
            orders[gate] = places.to(gate.origin.device)
    rearrange(orders, changes_of(orders))


def _may_move(model: Network) -> list[Gate]:
    return [gate for gate in movable(model) if not gate.keeps_places]


def order(gate: Gate, stay: Tensor) -> Tensor | None:
    """[units] int64, the unit that comes to each place; None if no unit moves.

    Args:
        gate: the gate, with the mask of the task that has just ended.
        stay: [units] bool, the units that earlier tasks use. They keep their places. Among the other units, used ones
            come first.
    """
    used, stay = (gate.used > 0.5).cpu(), stay.cpu()
    unmoved = torch.arange(gate.units)
    places = unmoved.clone()
    for segment in segments(gate):
        left = segment[~stay[segment]]
        places[left] = torch.cat([left[used[left]], left[~used[left]]])
    return None if torch.equal(places, unmoved) else places.to(gate.used.device)


@torch.no_grad()
def rearrange(orders: Mapping[Gate, Tensor], changes: Changes) -> None:
    """Let units change places in parameters, gradients and the buffers of gates, in place."""
    # All new values are computed before the first is copied: an error until then leaves the network as it was.
    values = [
        (tensor, applied(tensor, of_parameter))
        for parameter, of_parameter in changes.items()
        for tensor in (parameter, parameter.grad)
        if tensor is not None
    ]
    for tensor, changed in values:
        tensor.copy_(changed)
    for gate, new in orders.items():
        gate.rearrange(Change.of_order(0, new[None]))


def changes_of(orders: Mapping[Gate, Tensor]) -> dict[Tensor, list[Change]]:
    """The changes of every parameter along the axes of these gates, and of their embeddings."""
    changes: dict[Tensor, list[Change]] = {}
    seen = set()
    for gate, new in orders.items():
        changes[gate.embedding] = [Change.of_order(0, new[None])]
        for member in gate.members:
            if isinstance(member.module, PerTask):
                for values, tasks in member.module.moved(member.name):
                    change = Change.of_order(member.dim + tasks, _places(member, values, tasks, new))
                    changes.setdefault(values, []).append(change)
                continue
            key = (member.parameter, member.dim, gate)
            if member.parameter is not None and key not in seen:
                seen.add(key)
                changes.setdefault(member.parameter, []).append(_change_of(member, new))
    return changes


def _change_of(member: Along, new: Tensor) -> Change:
    assert member.parameter is not None
    places = _places(member, member.parameter, 0, new)
    if member.groups == 1 or member.dim == 0:
        return Change.of_order(member.dim, places)
    places = places.view(member.groups, -1)
    return Change.of_order(1, places % places.shape[1])


def _places(member: Along, values: Tensor, tasks: int, new: Tensor) -> Tensor:
    """[1, length] the old index for each place of a dimension of `values`, behind `tasks` dimensions for tasks."""
    index = expanded(new, member.repeat)
    if member.places is None:
        return index[None]
    length = values.shape[member.dim + tasks] * (member.groups if member.dim else 1)
    places = member.places.to(index.device)
    return torch.arange(length, device=index.device).index_copy(0, places, places[index])[None]


def _heads(model: Network, outputs: Gate, new: Tensor) -> dict[Tensor, list[Change]]:
    """The changes of the heads that read a unit that moves."""
    moved = new != torch.arange(len(new), device=new.device)
    reads = (outputs.masks[:, moved] != 0).any(1)
    index = expanded(new, model.features // outputs.units)[None]
    return {model.heads[task].weight: [Change.of_order(1, index)] for task in reads.nonzero().flatten().tolist()}


def expanded(new: Tensor, repeat: int) -> Tensor:
    """The order of indices, if each unit has `repeat` indices in a row."""
    return (new[:, None] * repeat + torch.arange(repeat, device=new.device)).flatten()
