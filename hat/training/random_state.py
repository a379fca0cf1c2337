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
    """Restore a state that `random_state` returned. Devices that this machine does not have are left out.

    Raises:
        ValueError: a state has another dtype or length than that of a generator.
    """
    present = random_state()
    for name, saved, like in [
        ("cpu", state["cpu"], present["cpu"]),
        *(("cuda", saved, like) for saved, like in zip(state["cuda"], present["cuda"], strict=False)),
    ]:
        if saved.dtype != torch.uint8 or saved.shape != like.shape or saved.device.type != "cpu":
            expected = f"{len(like)} bytes on the CPU"
            raise ValueError(f"random: {name}: expected {expected}, got {saved.dtype} {tuple(saved.shape)}")
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
