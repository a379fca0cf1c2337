"""The optimizers that update a weight inside the backward pass: which optimizer updates which weight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from weakref import ref

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Updater(Protocol):
    """An optimizer that updates weights inside the backward pass; see `hat_kernels.locked_linear`."""

    def update(self, weight: Tensor, dz: Tensor, x: Tensor) -> bool:
        """Update the weight with the gradient `dz^T x`. False: the weight was not updated and needs a gradient."""


_updaters: WeakIdKeyDictionary = WeakIdKeyDictionary()


def claim(weights: Iterable[Tensor], updater: Updater | None) -> None:
    """Let `updater` update these weights, as long as it lives or until the next claim; None: no updater."""
    for weight in weights:
        if updater is None:
            _updaters.pop(weight, None)
        else:
            _updaters[weight] = ref(updater)


def updater_of(weight: Tensor) -> Updater | None:
    """The optimizer that updates this weight inside the backward pass, or None."""
    reference = _updaters.get(weight)
    return None if reference is None else reference()
