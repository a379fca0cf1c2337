"""Checksums of tensors: integers modulo 2^64, made of the bits of the elements and of their places.

The bits of an element b[i, j] of a matrix count as an integer, so -0.0 is not 0.0:

    sum over i, j of bits(b[i, j]) * r[i] * c[j]        r[i], c[j]: fixed pseudo-random numbers, odd, or 0 to leave out

- One element that has changed is always found, whichever bits have changed: the change is not 0 modulo 2^64, and an odd
  factor keeps it so.
- Several changes cancel each other by chance only, so elements that have changed places are found.
- The order in which integers are added makes no difference, so CPU, GPU and any memory layout give the same number.

Every tensor is a matrix here: a vector is one row, and the dimensions behind the first are columns.

Example: the vector [0.5, 2.0] of float32. The bits of 0.5 are 0x3f000000, those of 2.0 are 0x40000000. The checksum is
(0x3f000000 * c[0] + 0x40000000 * c[1]) * r[0].
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNKS = {"cpu": 2**16}
"""How many elements are read at once, by the kind of device; their products must fit into the cache of a CPU."""
_CHUNK = 2**24
"""The same for other devices. The products need 8 bytes each."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: Tensor) -> int:
    """The checksum of a whole tensor of any dtype and memory layout; 0 if it has no elements."""
    values = tensor.detach()
    return int(sums(*whole(values))) if values.numel() else 0


def whole(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `sums` for all elements of a tensor, as one matrix."""
    bits = bits_of(tensor).reshape(1, len(tensor) if tensor.dim() > 1 else 1, -1)
    rows, columns = (factors(bits.device, bits.shape[dim + 1], dim) for dim in (0, 1))
    return bits, rows[None], columns[None, None]


def sums(bits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[matrices] int64, the checksum of every matrix.

    Args:
        bits: [matrices, rows, columns], integers.
        rows: [1 or matrices, rows] int64, the factors of the rows.
        columns: [1 or matrices, 1, columns] int64, the factors of the columns.
    """
    chunks = -(-bits.numel() // _CHUNKS.get(bits.device.type, _CHUNK))
    if chunks == 1:
        return ((bits * columns).sum(2) * rows).sum(1)
    dim = max(range(3), key=lambda dim: bits.shape[dim])
    parts = [
        t.chunk(chunks, dim) if dim < t.dim() and t.shape[dim] > 1 else [t] * chunks for t in (bits, rows, columns)
    ]
    of_parts = [sums(*part) for part in zip(*parts, strict=False)]
    return torch.cat(of_parts) if dim == 0 else torch.stack(of_parts).sum(0)


def bits_of(tensor: Tensor) -> Tensor:
    """The bits of the elements as integers of the same size. A complex number is two numbers."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.view(_INTEGERS[tensor.element_size()])


def is_readable(tensor: Tensor) -> bool:
    """Whether there are elements, and their bits can be read."""
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    return tensor.numel() > 0 and tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized)


_TABLES: dict[tuple[torch.device, int], Tensor] = {}


def factors(device: torch.device, length: int, number: int) -> Tensor:
    """[length] int64, the odd factors of the places 0, 1, ...: 0 for rows, 1 for columns; the same on all devices."""
    table = _TABLES.get((device, number))
    if table is None or len(table) < length:
        state = (torch.arange(2 * length + 1024, device="cpu") * 2 + number + 1) * -0x61C8864680B583EB
        state = (state ^ (state >> 30)) * -0x40A7B892E31B1A47  # SplitMix64, with shifts that keep the sign
        state = (state ^ (state >> 27)) * -0x6B2FB644ECCEEE15
        table = _TABLES[device, number] = ((state ^ (state >> 31)) | 1).to(device)
    return table[:length]
