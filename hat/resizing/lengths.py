"""How many units a norm says that it normalises, once some have gone or joined."""

from __future__ import annotations

from typing import Any

from hat.conversion.body import Converted
from hat.layers.gated_norm import GatedNorm
from hat.layers.norms import HATGroupNorm
from hat.network.network import Network
from hat.units.layout import Layout


def norms(model: Network) -> list[GatedNorm]:
    return [module for module in model.body.modules() if isinstance(module, GatedNorm)]


def length_of(norm: GatedNorm) -> int:
    """How many units, or elements along the first dimension, it says that it normalises."""
    return int(norm.normalized_shape[0] if hasattr(norm, "normalized_shape") else norm.units)  # type: ignore[index, arg-type]


def own_length(norm: GatedNorm) -> int:
    """As its tensors have it, or its gate."""
    for name, values in norm.current():
        if values.dim() and name != "count":
            return len(values)
    return norm.gate.units if norm.gate is not None else length_of(norm)


def set_length(norm: Any, length: int) -> None:
    if hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (length, *norm.normalized_shape[1:])
    else:
        setattr(norm, "num_channels" if isinstance(norm, HATGroupNorm) else "num_features", length)


def follow_layout(norm: GatedNorm, body: Converted) -> None:
    """A norm without tensors has the length that the graph gives it."""
    if any(values.dim() for name, values in norm.current() if name != "count"):
        return
    for node in body.network.graph.nodes:
        if node.op == "call_module" and body.network.get_submodule(str(node.target)) is norm:
            layout = body.layouts.get(node.name)
            if isinstance(layout, Layout):
                dim = 1 if norm.unit_dim == 1 else len(layout.shape) - len(getattr(norm, "normalized_shape", (1,)))
                set_length(norm, layout.shape[dim])
