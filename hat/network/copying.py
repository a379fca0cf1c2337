"""Deep copies of networks whose gates refer to layers, and whose layers refer to gates.

`copy.deepcopy` alone follows these references: layer 1, its gate, the layer that reads the gate's units, the gate of
that layer, and so on. A network of 80 layers then exceeds the recursion limit of Python. So an empty copy of every
module is made first, and the attributes are copied afterwards, module by module.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    """The deep copy of a module, for its `__deepcopy__`.

    Args:
        module: the module to copy.
        memo: the argument of `__deepcopy__`: copies made so far, by the `id` of the original.
    """
    parts = [part for part in module.modules() if part is module or _is_plain(type(part))]
    for part in parts:
        memo[id(part)] = type(part).__new__(type(part))
    for part in reversed(parts):  # children first, because a graph reads attributes of its children
        memo[id(part)].__setstate__(copy.deepcopy(part.__reduce_ex__(4)[2], memo))
    return memo[id(module)]


def _is_plain(cls: type[nn.Module]) -> bool:
    """Whether `copy.deepcopy` copies an object of this class by its attributes, without a special method."""
    special = ("__reduce__", "__reduce_ex__")
    return not hasattr(cls, "__deepcopy__") and all(getattr(cls, name) is getattr(object, name) for name in special)
