"""Random number generators that a network may draw from while it runs, besides the default ones of torch."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hat.text import dotted


@dataclass(frozen=True)
class Generator:
    """A generator.

    Attributes:
        name: how a user calls it: `random`, `numpy.random`, or the name of an attribute of the network.
        get: returns the state.
        set: takes a state.
    """

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], None]

    def position(self) -> bytes:
        """The state in a form that can be compared: another one after every draw."""
        state = self.get()
        return bytes(state.numpy()) if isinstance(state, Tensor) else pickle.dumps(state)


def generators(module: nn.Module) -> Iterator[Generator]:
    """The global generators of Python and NumPy, and all generators among the attributes of the network."""
    yield _of(random, "random")
    yield _of(np.random, "numpy.random")
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, random.Random | np.random.RandomState | np.random.Generator | torch.Generator):
                yield _of(value, dotted(path, name))


def _of(source: Any, name: str) -> Generator:
    if isinstance(source, np.random.Generator):
        bits = source.bit_generator
        return Generator(name, lambda: bits.state, lambda state: setattr(bits, "state", state))
    if hasattr(source, "getstate"):
        return Generator(name, source.getstate, source.setstate)
    return Generator(name, source.get_state, source.set_state)
