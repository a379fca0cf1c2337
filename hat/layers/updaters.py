"""The optimizers that update a weight inside the backward pass: which optimizer updates which weight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from weakref import ref

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from hat_kernels.locked_linear.api import Update


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


def update_of(weight: Tensor) -> Update | None:
    """What updates this weight inside the backward pass, or None.

    It updates the weight itself, whatever the backward pass sees in its place: a checkpoint hands out copies.
    """
    reference = _updaters.get(weight)
    updater = None if reference is None else reference()
    return None if updater is None else lambda _, dz, x: updater.update(weight, dz, x)
