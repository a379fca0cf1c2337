"""The forms in which an operation takes a gate, for the tests of all operations with a gate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hat_kernels import GateForm
from tests.hat_kernels.shapes import generator, normal

FORMS = ["none", "embedding", "mask", "task"]


def form(name: str, units: int, batch: int, *, dtype: torch.dtype = torch.float32, seed: int = 3) -> GateForm | None:
    """A gate; masks hold zeros, ones and soft values."""
    if name == "none":
        return None
    if name == "embedding":
        scale = torch.tensor(1.5, dtype=dtype)
        return GateForm(embedding=normal((units,), dtype, seed), scale=scale, compensation="none")
    masks = torch.rand((4, units), generator=generator(seed), dtype=torch.float64)
    masks = torch.where(masks < 0.3, 0.0, torch.where(masks > 0.7, 1.0, masks)).to(dtype)
    if name == "mask":
        return GateForm(mask=masks[1])
    return GateForm(mask=masks, task=torch.randint(4, (batch,), generator=generator(seed + 1)))


def tensors_of(gate: GateForm | None) -> list[Tensor | None]:
    """The tensors of a gate, in the order of `GateForm`."""
    return [] if gate is None else list(gate[:4])


def with_tensors(gate: GateForm | None, tensors: Sequence[Tensor | None]) -> GateForm | None:
    """The gate with these tensors instead of those that `tensors_of` returns."""
    return None if gate is None else GateForm(*tensors, *gate[4:])


def values_of(gate: GateForm | None, x: Tensor, unit_dim: int) -> Tensor:
    """The gate of a form by its definition, as a tensor that broadcasts against x."""
    shape = [1] * x.dim()
    shape[unit_dim] = x.shape[unit_dim]
    if gate is None:
        return torch.ones(shape, dtype=x.dtype)
    if gate.mask is None:
        return (1 / (1 + torch.exp(-gate.scale * gate.embedding))).view(shape)
    if gate.task is None:
        return gate.mask.view(shape)
    shape[0] = x.shape[0]
    return gate.mask[gate.task].view(shape)
