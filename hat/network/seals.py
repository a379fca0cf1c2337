"""Seals: checksums of everything that finished tasks use, made when a task ends, and compared before the next change.

Sealed are the locked elements of shared parameters, frozen parameters and buffers, the masks, and of every finished
task the head and the task's own tensors, as far as the task reads them. In mode `published`, shared parameters may move
a little, so they are not sealed.

A seal is a checksum (`hat.network.checksums`) in which the factor of a row or column is 0 if it is not sealed. A locked
weight is where a locked row meets a locked column, so no tensor of rates is made. If the locked units lie in front,
only the block that they lock is read.

Example: a bias [0.5, 1.0, 2.0] of float32, with the elements 0 and 2 locked. The bits of 0.5 are 0x3f000000, those of
2.0 are 0x40000000. The seal is (0x3f000000 * c[0] + 0x40000000 * c[2]) * r[0].

A seal depends on the places of the units. Whatever moves units, adds units or forgets a task does so inside of
`opened`: the old seal is compared before the first change, and a new one is made after the last. That the change itself
keeps what finished tasks answer is the contract of the operation.

As many functions are called for 1000 tasks as for one, because heads of equal shape are read together, and so are the
tensors that all tasks have in one `PerTask` module. The bytes grow: by the head and the own tensors of every task. They
are read once when a task ends, to compare them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hat.network.checksums import bits_of, factors, is_readable, sums, whole
from hat.network.heads import ForgottenHead
from hat.network.network import Network
from hat.network.reading import stacks
from hat.text import dotted
from hat.units.blocks import Side, Sides
from hat.units.buffers import foreign
from hat.warnings import DriftWarning

_OF_HEADS = "heads.*."
"""How the names of tensors of heads start here. The star stands for the id of the task."""
_ALL = -1
"""The key of a seal that belongs to no single task."""
_OF_A_LOAD = 6
"""How many calls lie between a load of the user and the comparison."""


class Seal(NamedTuple):
    """The seal of a tensor.

    Attributes:
        dtype: of the tensor, as text.
        sums: the seals of the tasks' parts, by the id of the task; the key is -1 if all tasks share the tensor.
    """

    dtype: str
    sums: dict[int, int]


Seals = dict[str, Seal]
"""The seals of a model, by the names of the tensors. `heads.*.weight` stands for the weights of all heads."""


class _Matrices(NamedTuple):
    """The elements of a tensor that are sealed.

    Attributes:
        name: of the tensor.
        dtype: of the tensor.
        tasks: the tasks that the matrices belong to. None: all matrices together have one seal.
        bits, rows, columns: see `hat.network.checksums.sums`.
    """

    name: str
    dtype: torch.dtype
    tasks: Sequence[int] | None
    bits: Tensor
    rows: Tensor
    columns: Tensor


@torch.no_grad()
def seals(model: Network, earlier: Seals | None = None) -> Seals:
    """The seals of what the model holds now: of masks, parameters of the body, heads, and buffers, in this order.

    Left out are tensors without plain values: on the meta device, sparse, quantized, or of a class with its own
    dispatch, as a DTensor.

    Args:
        model: the model.
        earlier: the seals before the last task ended. The parts of earlier tasks are not read again.
    """
    if not model.holds:
        return {}
    listed = [matrices for matrices in _sealed(model, model.tasks - 1 if earlier else 0) if matrices.bits.numel()]
    found = [sums(*matrices[3:]) if matrices.tasks else sums(*matrices[3:]).sum(0, True) for matrices in listed]
    # One tensor, so that the host waits for a device only once.
    numbers = iter(torch.cat([of_tensor.to(found[0].device) for of_tensor in found]).tolist() if found else ())
    made: Seals = {}
    kept = {name: seal for name, seal in (earlier or {}).items() if _ALL not in seal.sums or name.startswith("heads.")}
    for name, dtype, tasks, *_ in listed:
        by_task = dict(zip(tasks or (_ALL,), numbers, strict=False))
        before = made.get(name) or kept.pop(name, None)
        made[name] = Seal(str(dtype), by_task if before is None else before.sums | by_task)
    return made | kept


@torch.no_grad()
def elements(model: Network) -> int:
    """How many elements `seals` reads."""
    return sum(matrices.bits.numel() for matrices in _sealed(model, 0)) if model.holds else 0


def first_drift(sealed: Seals, now: Seals) -> tuple[str, str] | None:
    """The first sealed tensor that has changed: its name, and what has become of it. None: nothing has changed.

    Args:
        sealed: the seals.
        now: the seals of what the model holds now. They may have more tensors and more tasks.
    """
    if sealed == now:
        return None
    in_order = [*(name for name in now if name in sealed), *(name for name in sealed if name not in now)]
    for name, (dtype, sealed_sums) in ((name, sealed[name]) for name in in_order):
        now_dtype, now_sums = now.get(name, (None, {}))
        changed = [task for task, number in sealed_sums.items() if now_sums.get(task) != number]
        if now_dtype is None or changed:
            full_name = name.replace(_OF_HEADS, f"heads.{changed[0]}.") if name.startswith(_OF_HEADS) else name
            if now_dtype is None or changed[0] not in now_sums:
                return full_name, "is gone"
            return full_name, "has moved" if dtype == now_dtype else f"is {now_dtype} and was {dtype}"
    return None


def moved(model: Network) -> str | None:
    """The name of the first tensor that has moved; see `hat.HATModel.moved`."""
    if model.drifted is not None or not model.sealed or any(gate.masks.is_meta for gate in model.gates.values()):
        return model.drifted
    drift = first_drift(model.sealed, seals(model))
    return None if drift is None else drift[0]


def described(model: Network, name: str) -> tuple[str, float, str]:
    """`moved`, `moved_by` and `kind` of a `hat.Verification` for the tensor that `moved` has named."""
    return name, math.nan, "buffer" if name in dict(model.named_buffers()) else "parameter"


def seal(model: Network) -> None:
    """Seal what the model holds now. If the model holds nothing, it remembers no drift any more."""
    model.sealed = seals(model)
    if not model.holds:
        model.drifted = None


@contextmanager
def opened(model: Network, stacklevel: int = 1, *, appends: bool = False) -> Iterator[None]:
    """Compare the seals, let the `with` block change what is sealed, and seal it again.

    If an error leaves the block, the model has no seals until the next `begin_task`.

    Args:
        model: the model.
        stacklevel: of a `DriftWarning`: 1 is the line of the `with`, 2 the line that has called its function.
        appends: the block ends a task, and leaves what belongs to earlier tasks alone as it is, in its place. So it is
            not in mode `published`, where every task uses a little of every unit, and units that move are units of all.
    """
    now = None
    if model.sealed:
        now = seals(model)
        _compare(model, now, "since it was locked", stacklevel + 2)
    model.sealed = None
    yield
    if appends and now:
        model.sealed = seals(model, now)
    else:
        seal(model)


def to_save(model: Network) -> Seals | None:
    """The seals for a state, in the order of names and tasks; None if nothing is sealed.

    Buffers that are in no state are left out.
    """
    if not model.sealed:
        return None
    unsaved = {
        f"body.{name}"
        for name, (module, own_name, _) in foreign(model.body).items()
        if own_name in module._non_persistent_buffers_set
    }
    saved = [(name, seal) for name, seal in sorted(model.sealed.items()) if name not in unsaved]
    return {name: Seal(seal.dtype, dict(sorted(seal.sums.items()))) for name, seal in saved}


def restored(saved: Any) -> Seals | None:
    """The seals that `to_save` has given, after JSON has written and read them.

    Raises:
        ValueError: these are no seals.
    """
    if saved is None:
        return None
    try:
        seals = {name: Seal(dtype, {int(task): n for task, n in sums.items()}) for name, (dtype, sums) in saved.items()}
    except (AttributeError, TypeError, ValueError):
        seals = None
    if seals is None or not all(type(n) is int for seal in seals.values() for n in seal.sums.values()):
        raise ValueError("sealed: expected a dtype and integers by task for every name")
    return seals


def compare_loaded(model: Network) -> None:
    """Compare the values that were loaded with the seals that were loaded, or with the former seals if none were."""
    sealed = model.sealed
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return  # the rest of the model comes with another load
    if sealed is None and not model._remembers:
        return  # the first task seals what is reserved
    model.sealed = seals(model)
    if sealed:
        _compare(model, model.sealed, "in the loaded state", _OF_A_LOAD, sealed)


def _compare(model: Network, now: Seals, when: str, stacklevel: int, sealed: Seals | None = None) -> None:
    """Warn about the first tensor that differs from its seal, and let the model remember its name."""
    drift = first_drift(model.sealed or {} if sealed is None else sealed, now)
    if drift is not None:
        name, how = drift
        model.drifted = model.drifted or name
        warnings.warn(
            f"{name} {how} {when}, so finished tasks may answer differently; "
            "look for an optimizer without hat.guard, a write by hand, or a load of some weights only",
            DriftWarning,
            stacklevel=stacklevel + 1,
        )


# -- what is sealed ----------------------------------------------------------------------------------------------------


def _sealed(model: Network, first: int) -> Iterator[_Matrices]:
    """All that is sealed, as matrices of integers; of what belongs to single tasks, only from task `first` on."""
    yield from _masks(model, first)  # first, because they say which elements of all others are sealed
    yield from _parameters(model)
    yield from _heads(model, first)
    yield from _buffers(model, first)


def _masks(model: Network, first: int) -> Iterator[_Matrices]:
    """The masks, and which units are reserved."""
    for name, gate in model.gates.items():
        full_name = dotted("body", name)
        if is_readable(gate.masks):
            yield _stack(f"{full_name}.masks", gate.masks[first:], range(first, gate.tasks))
        if gate.reserves:
            yield _whole(f"{full_name}.reserved", gate.reserved)


def _parameters(model: Network) -> Iterator[_Matrices]:
    """The locked elements of the parameters along gates, and the parameters of the body along no gate."""
    sides_by_parameter, binary = model.sides(), model.config.mask_mode == "binary"
    trained = {id(gate.embedding) for gate in model.gates.values()}
    trained |= {id(p) for module in model.per_task.values() for p in module._parameters.values()}
    for prefix, part in model._modules.items():
        if part is None or prefix == "heads":
            continue
        for name, parameter in part.named_parameters(prefix):
            sides = sides_by_parameter.get(parameter)
            if not is_readable(parameter) or id(parameter) in trained:
                continue
            if sides is not None and binary:
                yield _Matrices(name, parameter.dtype, None, *_locked(parameter, sides))
            elif sides is None and (prefix == "body" or not model.reads_features_alone):
                yield _whole(name, parameter)
    for name, own in () if model.reads_features_alone else model._parameters.items():
        if own is not None and is_readable(own):
            yield _whole(name, own)


def _heads(model: Network, first: int) -> Iterator[_Matrices]:
    """The heads of finished tasks: the bias, and the columns of the weight for units that the task uses."""
    heads = list(model.heads._modules.values())[: model.tasks]
    tasks_by_classes: dict[int | None, list[int]] = {}
    for task in range(first, len(heads)):  # nothing is called that is written in Python
        is_linear = heads[task].__class__ is nn.Linear
        tasks_by_classes.setdefault(len(model.classes[task]) if is_linear else None, []).append(task)
    for task in tasks_by_classes.pop(None, ()):
        head = heads[task]
        if head is not None and head.__class__ is not ForgottenHead:
            named_tensors = (*head.named_parameters(), *head.named_buffers())
            yield from (_whole(f"heads.{task}.{name}", values) for name, values in named_tensors if is_readable(values))
    for classes, tasks in tasks_by_classes.items():
        yield from _heads_alike(model, classes or 0, tasks, [heads[task]._parameters for task in tasks])


def _heads_alike(model: Network, classes: int, tasks: list[int], parameters: list[Any]) -> Iterator[_Matrices]:
    """The heads of tasks with equally many classes, as one tensor of weights and one of biases.

    Args:
        model: the model.
        classes: the number of classes.
        tasks: the ids of the tasks.
        parameters: the `_parameters` of their heads.
    """
    outputs, features = model.outputs, model.features
    try:
        weights, biases = ([of_head[name] for of_head in parameters] for name in ("weight", "bias"))
        bits = bits_of(torch.cat(weights)).view(len(tasks), classes, features)
        of_biases = torch.cat(biases).view(len(tasks), classes)
    except (KeyError, RuntimeError, TypeError):  # another tensor, or none, is in the place of one of them
        for task, of_head in zip(tasks, parameters, strict=True):
            named_tensors = [(name, p) for name, p in of_head.items() if p is not None and is_readable(p)]
            yield from (_whole(f"heads.{task}.{name}", p) for name, p in named_tensors)
        return
    columns = factors(bits.device, features, 1)
    if outputs is not None and outputs.tasks > tasks[-1]:
        read = outputs.masks[torch.tensor(tasks, device=outputs.masks.device)] != 0
        columns = columns * read.repeat_interleave(features // outputs.units, 1).to(columns.device)
    rows, columns = factors(bits.device, classes, 0)[None], columns.view(-1, 1, features)
    yield _Matrices(f"{_OF_HEADS}weight", weights[0].dtype, tasks, bits, rows, columns)
    yield _stack(f"{_OF_HEADS}bias", of_biases, tasks)


def _buffers(model: Network, first: int) -> Iterator[_Matrices]:
    """The tasks' own tensors as far as they are read, and the buffers of the body, which keep their values."""
    if not model._remembers:
        return
    for stack in stacks(model):
        if is_readable(stack.values):
            tasks = range(first, len(stack.values))
            yield _stack(stack.name, stack.values[first:], tasks, stack.read[first:])
    for name, (_, _, buffer) in foreign(model.body).items():
        if is_readable(buffer):
            yield _whole(f"body.{name}", buffer)


def _locked(parameter: Tensor, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """(bits, rows, columns) of the elements of a parameter that nothing may move; see `_Matrices`."""
    bits, groups = bits_of(parameter), sides.groups
    count = bits.shape[0] if bits.dim() else 1
    width = bits.shape[1] * groups if bits.dim() > 1 else 1
    tail = bits.numel() // (count * width // groups)
    in_order = groups == 1  # with groups, locked rows do not meet all locked columns
    rows = _factors_of(sides.rows, count, 1, in_order, 0, bits.device).view(groups, -1)
    columns = _factors_of(sides.columns, width, tail, in_order, 1, bits.device).view(groups, 1, -1)
    if in_order and bits.dim() > 1:
        bits = bits[: rows.shape[1], : columns.shape[2] // tail]
    elif in_order:
        bits = bits.reshape(-1)[: rows.shape[1]]
    return bits.reshape(groups, rows.shape[1], columns.shape[2]), rows, columns


def _factors_of(side: Side | None, length: int, tail: int, in_order: bool, number: int, device: Any) -> Tensor:
    """[sealed * tail] or [length * tail] int64, the factors of one dimension; 0 where it is not locked.

    Args:
        side: the units along the dimension; None: there are none, and all of the dimension is locked.
        length: of the dimension.
        tail: how many elements lie behind each index, each with a factor of its own.
        in_order: if all locked units lie in front, leave out what is behind them.
        number: see `_factors`.
        device: of the factors.
    """
    if side is None:
        return factors(device, length * tail, number)
    if in_order and side.in_order:
        return factors(device, side.behind * tail, number)
    return factors(device, length * tail, number) * (side.free == 0).repeat_interleave(side.repeat * tail)


def _whole(name: str, tensor: Tensor) -> _Matrices:
    """All elements of a tensor, with one seal."""
    return _Matrices(name, tensor.dtype, None, *whole(tensor))


def _stack(name: str, values: Tensor, tasks: Sequence[int], read: Tensor | None = None) -> _Matrices:
    """The values [tasks, ...] of finished tasks, with one seal for each task; `read`: only where it is true."""
    bits = bits_of(values).reshape(len(tasks), 1, -1)
    rows, columns = factors(bits.device, 1, 0)[None], factors(bits.device, bits.shape[2], 1)[None, None]
    return _Matrices(name, values.dtype, tasks, bits, rows, columns if read is None else columns * read.view_as(bits))
