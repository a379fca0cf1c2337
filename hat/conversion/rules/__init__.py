"""What each operation and each module does to units."""

from __future__ import annotations

from torch import nn

from hat.conversion.analysis import ModuleRule, Rule
from hat.conversion.rules import channels, elementwise, layers, movement, products, quotients, reductions
from hat.tracing.known import known_type

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **channels.RULES,
    **movement.RULES,
    **products.RULES,
    **quotients.RULES,
    **reductions.RULES,
}
"""By the name of the operation, see `hat.tracing.names`. A rule that answers None does not know this case."""

_MODULES: dict[type[nn.Module], ModuleRule] = {
    **layers.MODULES,
    **elementwise.MODULES,
    **channels.MODULES,
    **movement.MODULES,
    **products.MODULES,
    **reductions.MODULES,
}
_BY_NAME: dict[str, ModuleRule] = elementwise.MODULES_BY_NAME


def module_rule(module: nn.Module) -> ModuleRule | None:
    """The rule of a module of a known type, or derived from a linear layer or convolution; None for others."""
    known = _MODULES.get(known_type(module)) or _BY_NAME.get(type(module).__name__)
    return known or layers.derived_rule(module)
