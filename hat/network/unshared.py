"""Which parameters of a body no two tasks share, and a message about them if the user should hear of it.

Tasks share the parameters along gates. Every other parameter is frozen when the first task ends, or every task has its
own. Norms are not counted: that every task has its own norms is meant, and norms are small.
"""

from __future__ import annotations

from torch import nn

from hat.units.gate import Gate
from hat.units.locks import unlocked
from hat.units.per_task import PerTaskParameter
from hat.units.wired import Wired

MOST = 0.1
"""A larger share of parameters that no two tasks share is told. Positions and scales of a usual network are fewer."""
_NAMED = 3


def told(body: nn.Module) -> str | None:
    """One sentence about the parameters that no two tasks share; None if there is nothing to tell.

    Parameters that will be frozen are always told. Each task's own parameters are told if the two kinds together are
    more than `MOST` of all parameters of the body.
    """
    frozen = unlocked(body)
    own = {
        name: module.value
        for name, module in body.named_modules()
        if isinstance(module, PerTaskParameter) and isinstance(module.value, nn.Parameter)
    }
    sentences = []
    if frozen:
        sentences.append(f"along no gate, so frozen when the first task ends: {', '.join(frozen)}")
    embeddings = {id(module.embedding) for module in body.modules() if isinstance(module, Gate)}
    total = sum(parameter.numel() for parameter in body.parameters() if id(parameter) not in embeddings)
    unshared = {**frozen, **own}
    count = sum(parameter.numel() for parameter in unshared.values())
    if count > MOST * total:
        reasons = body.reasons if isinstance(body, Wired) else {}
        largest = sorted(unshared, key=lambda name: -unshared[name].numel())
        parts = []
        for name in largest[:_NAMED]:
            original, reason = reasons.get(name, (name, ""))
            kind = "frozen" if name in frozen else "each task's own"
            parts.append(
                f"{original} ({unshared[name].numel() / total:.0%}, {', '.join(filter(None, (kind, reason)))})"
            )
        more = f" and {len(largest) - _NAMED} more" if len(largest) > _NAMED else ""
        sentences.append(f"{count / total:.0%} of the parameters are shared by no two tasks: {', '.join(parts)}{more}")
    return "; ".join(sentences) or None
