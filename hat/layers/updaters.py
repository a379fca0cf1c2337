"""Who moves a weight in the middle of a backward pass, if anybody does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from weakref import ref

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Updater(Protocol):
    """An optimizer that updates weights inside of the backward pass; see `hat_kernels.locked_linear`."""

    def update(self, weight: Tensor, dz: Tensor, x: Tensor) -> bool:
        """Move the weight by `dz^T x`; False where it needs the gradient after all."""


_updaters: WeakIdKeyDictionary = WeakIdKeyDictionary()


def claim(weights: Iterable[Tensor], updater: Updater | None) -> None:
    """Let `updater` move these weights as long as it lives, or until the next claim; None: nobody."""
    for weight in weights:
        if updater is None:
            _updaters.pop(weight, None)
        else:
            _updaters[weight] = ref(updater)


def updater_of(weight: Tensor) -> Updater | None:
    """Who moves this weight inside of the backward pass."""
    found = _updaters.get(weight)
    return None if found is None else found()
