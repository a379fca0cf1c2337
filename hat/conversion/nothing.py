"""The error of a network in which no layer can be gated: it names the layers, and for each the reason."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from hat.conversion.analysis import Analysis
from hat.layers.norms import NORMS
from hat.text import dotted
from hat.tracing.errors import ConversionError
from hat.tracing.known import known_type
from hat.tracing.places import described

_NAMED = 5


def nothing_to_gate(module: nn.Module, analysis: Analysis, head: str | None) -> ConversionError:
    """The error of a network without gates.

    Args:
        module: the network.
        analysis: its analysis, which has been run.
        head: the name of the layer that was taken off as the head, or None.
    """
    found = [
        f"{described(name, part)} {reason}"
        for name, part in module.named_modules()
        if (reason := _reason(name, part, analysis, head))
    ]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    got = f"{'; '.join(found[:_NAMED])}{more}" if found else "a network without parameters"
    return ConversionError(f"the network: expected at least one layer that can be gated, got {got}")


def _reason(name: str, part: nn.Module, analysis: Analysis, head: str | None) -> str | None:
    """Why a module with parameters of its own is not gated; None for other modules."""
    computed = [*part.parametrizations] if parametrize.is_parametrized(part) else []  # type: ignore[misc]
    own = [own_name for own_name, _ in part.named_parameters(recurse=False)]
    if isinstance(part, parametrize.ParametrizationList) or not (computed or own):
        return None
    if name == head:
        return "is the head, which every task has for itself"
    if analysis.is_excluded(name):
        return "is excluded by `filter`"
    if computed:
        return f"computes its {' and '.join(computed)} by a parametrization; remove it (remove_parametrizations)"
    if known_type(part) in NORMS:
        return "is a norm, which every task has for itself"
    places = [place for own_name in own if (place := analysis.per_task.get(dotted(name, own_name)))]
    if places:
        return f"meets a call that is no layer: {places[0]}"
    return "is not used in the answer, or makes no units"
