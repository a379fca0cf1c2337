"""Copies of networks in which gates know layers, and layers gates."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` makes of a module, one part after the other.

    From a layer to its gate, from there to the next layer: `copy.deepcopy` alone would go as deep as the network,
    and Python goes no 80 layers deep.
    """
    parts = [each for each in module.modules() if each is module or _is_plain(type(each))]
    for each in parts:
        memo[id(each)] = type(each).__new__(type(each))
    for each in reversed(parts):  # a graph asks for the attributes of what is inside of it
        memo[id(each)].__setstate__(copy.deepcopy(each.__reduce_ex__(4)[2], memo))
    return memo[id(module)]


def _is_plain(cls: type[nn.Module]) -> bool:
    """It is copied as any object is."""
    own = ("__reduce__", "__reduce_ex__")
    return not hasattr(cls, "__deepcopy__") and all(getattr(cls, name) is getattr(object, name) for name in own)
