"""The rules of an analysis: what every operation and every module does to units.

A rule gets the analysis, the node, and the arguments of the call with a `Value` in place of every tensor (a rule of
a module gets the module too). The rule returns the `Value` of the result. It may unite units, give new ids, claim
dimensions of parameters, and demand gates. It returns None if it does not know the case; then the inputs are gated and
the result belongs to no unit.

Example: the rule of `add` for x with the labels [1, 2] and y with the labels [3, 4] unites 1 with 3 and 2 with 4, and
returns a value with the labels [3, 4], which now name the same classes as [1, 2].
"""

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
"""The rule of every operation, by the name of the operation; see `hat.tracing.names`."""

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
    """The rule of a module of a known class, or of a class derived from a linear layer or convolution; else None."""
    rule = _MODULES.get(known_type(module)) or _BY_NAME.get(type(module).__name__)
    return rule or layers.derived_rule(module)
