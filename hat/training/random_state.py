"""The state of the random number generators, which an exact resume restores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RANDOM_FORM = {"cpu": Tensor, "cuda": [Tensor]}


def random_state() -> dict[str, Any]:
    """The state of the generators of the CPU and of every CUDA device."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state that `random_state` returned. Devices that this machine does not have are left out."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
