"""The forms in which an operation takes a gate, for the tests of all operations with a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.hat_kernels.shapes import generator, normal

FORMS = ["none", "embedding", "mask", "task"]


def form(name: str, units: int, batch: int, *, dtype: torch.dtype = torch.float32, seed: int = 3) -> dict[str, Any]:
    """The arguments of a gate in a form; masks hold zeros, ones and soft values."""
    if name == "none":
        return {}
    if name == "embedding":
        scale = torch.tensor(1.5, dtype=dtype)
        return {"embedding": normal((units,), dtype, seed), "scale": scale, "compensation": "none"}
    masks = torch.rand((4, units), generator=generator(seed), dtype=torch.float64)
    masks = torch.where(masks < 0.3, 0.0, torch.where(masks > 0.7, 1.0, masks)).to(dtype)
    if name == "mask":
        return {"mask": masks[1]}
    return {"mask": masks, "task": torch.randint(4, (batch,), generator=generator(seed + 1))}


def values_of(gate: dict[str, Any], x: Tensor, unit_dim: int) -> Tensor:
    """The gate of a form by its definition, as a tensor that broadcasts against x."""
    shape = [1] * x.dim()
    shape[unit_dim] = x.shape[unit_dim]
    if "embedding" in gate:
        return (1 / (1 + torch.exp(-gate["scale"] * gate["embedding"]))).view(shape)
    if "task" in gate:
        shape[0] = x.shape[0]
        return gate["mask"][gate["task"]].view(shape)
    return gate["mask"].view(shape) if "mask" in gate else torch.ones(shape, dtype=x.dtype)
