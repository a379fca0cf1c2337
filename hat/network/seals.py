"""Seals: checksums of everything that finished tasks use, made when a task ends, and compared before the next change.

Sealed are the locked elements of shared parameters, frozen parameters and buffers, the masks, and of every finished
task the head and the task's own tensors, as far as the task reads them. In mode `published`, shared parameters may move
a little, so they are not sealed.

The seal of a matrix b is one integer, modulo 2^64. The bits of an element count as an integer, so -0.0 is not 0.0:

    sum over i, j of bits(b[i, j]) * r[i] * c[j]        r[i], c[j]: odd if row i and column j are sealed, else 0

A locked weight is where a locked row meets a locked column, so no tensor of rates is made. If the locked units lie in
front, only the block that they lock is read. Every tensor is a matrix here: a vector is one row, and the dimensions
behind the first are columns.

- One element that has changed is always found, whichever bits have changed: the change is not 0 modulo 2^64, and an odd
  factor keeps it so.
- Several changes cancel each other by chance only, because r and c are fixed pseudo-random numbers. So elements that
  have changed places are found.
- The order in which integers are added makes no difference, so CPU, GPU and any memory layout give the same seal.

Example: a bias [0.5, 1.0, 2.0] of float32, with the elements 0 and 2 locked. The bits of 0.5 are 0x3f000000, those of
2.0 are 0x40000000. The seal is (0x3f000000 * c[0] + 0x40000000 * c[2]) * r[0].

A seal depends on the places of the units. Whatever moves units, adds units or forgets a task does so inside of
`opened`: the old seal is compared before the first change, and a new one is made after the last. That the change itself
keeps what finished tasks answer is the contract of the operation.

As many functions are called for 1000 tasks as for one, because heads of equal shape are read together, and so are the
tensors that all tasks have in one `PerTask` module. The bytes grow: by the head and the own tensors of every task.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hat.network.heads import ForgottenHead
from hat.network.network import Network
from hat.network.reading import stacks
from hat.units.blocks import Side, Sides
from hat.units.buffers import foreign
from hat.warnings import DriftWarning

_OF_HEADS = "heads.*."
"""How the names of tensors of heads start here. The star stands for the id of the task."""
_ALL = -1
"""The key of a seal that belongs to no single task."""
_OF_A_LOAD = 6
"""How many calls lie between a load of the user and the comparison."""
_CHUNKS = {"cpu": 2**16}
"""How many elements are read at once, by the kind of device; their products must fit into the cache of a CPU."""
_CHUNK = 2**24
"""The same for other devices. The products need 8 bytes each."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        bits: [matrices, rows, columns], integers.
        rows: [1 or matrices, rows] int64, the factors of the rows.
        columns: [1 or matrices, 1, columns] int64, the factors of the columns.
    """

    name: str
    dtype: torch.dtype
    tasks: Sequence[int] | None
    bits: Tensor
    rows: Tensor
    columns: Tensor


@torch.no_grad()
def seals(model: Network) -> Seals:
    """The seals of what the model holds now: of masks, parameters of the body, heads, and buffers, in this order.

    Left out are tensors without plain values: on the meta device, sparse, quantized, or of a class with its own
    dispatch, as a DTensor.
    """
    if not model.holds:
        return {}
    listed = [matrices for matrices in _sealed(model) if matrices.bits.numel()]
    sums = [_sums(*matrices[3:]) if matrices.tasks else _sums(*matrices[3:]).sum(0, True) for matrices in listed]
    # One tensor, so that the host waits for a device only once.
    numbers = iter(torch.cat([of_tensor.to(sums[0].device) for of_tensor in sums]).tolist() if sums else ())
    made: Seals = {}
    for name, dtype, tasks, *_ in listed:
        by_task = dict(zip(tasks or (_ALL,), numbers, strict=False))
        made[name] = Seal(str(dtype), made[name].sums | by_task if name in made else by_task)
    return made


@torch.no_grad()
def elements(model: Network) -> int:
    """How many elements `seals` reads."""
    return sum(matrices.bits.numel() for matrices in _sealed(model)) if model.holds else 0


def first_drift(sealed: Seals, now: Seals) -> tuple[str, str] | None:
    """The first sealed tensor that has changed: its name, and what has become of it. None: nothing has changed.

    Args:
        sealed: the seals.
        now: the seals of what the model holds now. They may have more tensors and more tasks.
    """
    if sealed == now:
        return None
    for name, (dtype, sums) in sealed.items():
        now_dtype, now_sums = now.get(name, (None, {}))
        changed = [task for task, number in sums.items() if now_sums.get(task) != number]
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
def opened(model: Network, stacklevel: int = 1) -> Iterator[None]:
    """Compare the seals, let the `with` block change what is sealed, and seal it again.

    If an error leaves the block, the model has no seals until the next `begin_task`.

    Args:
        model: the model.
        stacklevel: of a `DriftWarning`: 1 is the line of the `with`, 2 the line that has called its function.
    """
    if model.sealed:
        _compare(model, seals(model), "since it was locked", stacklevel + 2)
    model.sealed = None
    yield
    seal(model)


def to_save(model: Network) -> Seals | None:
    """The seals for a state; None if nothing is sealed. Buffers that are in no state are left out."""
    if not model.sealed:
        return None
    unsaved = {
        f"body.{name}"
        for name, (module, own_name, _) in foreign(model.body).items()
        if own_name in module._non_persistent_buffers_set
    }
    return {name: seal for name, seal in model.sealed.items() if name not in unsaved}


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


def _sealed(model: Network) -> Iterator[_Matrices]:
    """All that is sealed, as matrices of integers."""
    yield from _masks(model)  # first, because they say which elements of all others are sealed
    yield from _parameters(model)
    yield from _heads(model)
    yield from _buffers(model)


def _masks(model: Network) -> Iterator[_Matrices]:
    """The masks, and which units are reserved."""
    for name, gate in model.gates.items():
        full_name = f"body.{name}".removesuffix(".")
        if _is_readable(gate.masks):
            yield _stack(f"{full_name}.masks", gate.masks, range(gate.tasks))
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
            if not _is_readable(parameter) or id(parameter) in trained:
                continue
            if sides is not None and binary:
                yield _Matrices(name, parameter.dtype, None, *_locked(parameter, sides))
            elif sides is None and (prefix == "body" or not model.reads_features_alone):
                yield _whole(name, parameter)
    for name, own in () if model.reads_features_alone else model._parameters.items():
        if own is not None and _is_readable(own):
            yield _whole(name, own)


def _heads(model: Network) -> Iterator[_Matrices]:
    """The heads of finished tasks: the bias, and the columns of the weight for units that the task uses."""
    heads = dict(zip(range(model.tasks), model.heads._modules.values(), strict=False))
    # Comprehensions that call nothing, because they run through all tasks.
    linear: dict[int, Any] = {
        task: head._parameters
        for task, head in heads.items()
        if head.__class__ is nn.Linear and "weight" in head._parameters and "bias" in head._parameters
    }
    kinds = {task: (p["weight"].shape, p["weight"].dtype, p["weight"].device) for task, p in linear.items()}
    for kind in dict.fromkeys(kinds.values()):
        yield from _heads_alike(model, {task: linear[task] for task in linear if kinds[task] == kind})
    for task in [task for task in heads if task not in linear and heads[task].__class__ is not ForgottenHead]:
        for name, values in (*heads[task].named_parameters(), *heads[task].named_buffers()):
            if _is_readable(values):
                yield _whole(f"heads.{task}.{name}", values)


def _heads_alike(model: Network, parameters: dict[int, Any]) -> Iterator[_Matrices]:
    """The heads of equal shape, dtype and device, as one tensor of weights and one of biases.

    Args:
        model: the model.
        parameters: the `_parameters` of the heads by task.
    """
    tasks, outputs = list(parameters), model.outputs
    weights = [of_head["weight"] for of_head in parameters.values()]
    biases = {task: of_head["bias"] for task, of_head in parameters.items() if of_head["bias"] is not None}
    classes, features = weights[0].shape
    if not _is_readable(weights[0]):
        return
    columns = _factors(weights[0].device, features, 1)
    if outputs is not None and outputs.tasks > tasks[-1]:
        read = (outputs.masks[tasks] != 0).repeat_interleave(features // outputs.units, 1)
        columns = columns * read.to(columns.device)
    bits = _bits(torch.cat(weights)).view(len(tasks), classes, features)
    rows, columns = _factors(bits.device, classes, 0)[None], columns.view(-1, 1, features)
    yield _Matrices(f"{_OF_HEADS}weight", weights[0].dtype, tasks, bits, rows, columns)
    if biases:
        yield _stack(f"{_OF_HEADS}bias", torch.cat(list(biases.values())).view(len(biases), classes), list(biases))


def _buffers(model: Network) -> Iterator[_Matrices]:
    """The tasks' own tensors as far as they are read, and the buffers of the body, which keep their values."""
    if not model._remembers:
        return
    for stack in stacks(model):
        if _is_readable(stack.values):
            yield _stack(stack.name, stack.values, range(len(stack.values)), stack.read)
    for name, (_, _, buffer) in foreign(model.body).items():
        if _is_readable(buffer):
            yield _whole(f"body.{name}", buffer)


def _locked(parameter: Tensor, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """(bits, rows, columns) of the elements of a parameter that nothing may move; see `_Matrices`."""
    bits, groups = _bits(parameter), sides.groups
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
        return _factors(device, length * tail, number)
    if in_order and side.in_order:
        return _factors(device, side.behind * tail, number)
    return _factors(device, length * tail, number) * (side.free == 0).repeat_interleave(side.repeat * tail)


def _whole(name: str, tensor: Tensor) -> _Matrices:
    """All elements of a tensor, with one seal."""
    bits = _bits(tensor).reshape(1, len(tensor) if tensor.dim() > 1 else 1, -1)
    rows, columns = (_factors(bits.device, bits.shape[dim + 1], dim) for dim in (0, 1))
    return _Matrices(name, tensor.dtype, None, bits, rows[None], columns[None, None])


def _stack(name: str, values: Tensor, tasks: Sequence[int], read: Tensor | None = None) -> _Matrices:
    """The values [tasks, ...] of finished tasks, with one seal for each task; `read`: only where it is true."""
    bits = _bits(values).reshape(len(tasks), 1, -1)
    rows, columns = _factors(bits.device, 1, 0)[None], _factors(bits.device, bits.shape[2], 1)[None, None]
    return _Matrices(name, values.dtype, tasks, bits, rows, columns if read is None else columns * read.view_as(bits))


# -- integers ----------------------------------------------------------------------------------------------------------


def _sums(bits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[matrices] int64, the seal of every matrix; see `_Matrices`."""
    chunks = -(-bits.numel() // _CHUNKS.get(bits.device.type, _CHUNK))
    if chunks == 1:
        return ((bits * columns).sum(2) * rows).sum(1)
    dim = max(range(3), key=lambda dim: bits.shape[dim])
    parts = [
        t.chunk(chunks, dim) if dim < t.dim() and t.shape[dim] > 1 else [t] * chunks for t in (bits, rows, columns)
    ]
    sums = [_sums(*part) for part in zip(*parts, strict=False)]
    return torch.cat(sums) if dim == 0 else torch.stack(sums).sum(0)


def _bits(tensor: Tensor) -> Tensor:
    """The bits of the elements as integers of the same size. A complex number is two numbers."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.view(_INTEGERS[tensor.element_size()])


def _is_readable(tensor: Tensor) -> bool:
    """Whether there are elements, and their bits can be read."""
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    return tensor.numel() > 0 and tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized)


_tables: dict[tuple[torch.device, int], Tensor] = {}


def _factors(device: torch.device, length: int, number: int) -> Tensor:
    """[length] int64, the odd factors of the places 0, 1, ...: 0 for rows, 1 for columns; the same on all devices."""
    table = _tables.get((device, number))
    if table is None or len(table) < length:
        state = (torch.arange(2 * length + 1024, device="cpu") * 2 + number + 1) * -0x61C8864680B583EB
        state = (state ^ (state >> 30)) * -0x40A7B892E31B1A47  # SplitMix64, with shifts that keep the sign
        state = (state ^ (state >> 27)) * -0x6B2FB644ECCEEE15
        table = _tables[device, number] = ((state ^ (state >> 31)) | 1).to(device)
    return table[:length]
