"""The attribute of a norm that says how many units it normalises, after units have gone or joined."""

from __future__ import annotations

from typing import Any

from hat.conversion.body import Converted
from hat.layers.gated_norm import GatedNorm
from hat.layers.norms import HATGroupNorm
from hat.network.network import Network
from hat.units.layout import Layout


def norms(model: Network) -> list[GatedNorm]:
    """The gated norms of a model."""
    return [module for module in model.body.modules() if isinstance(module, GatedNorm)]


def length_of(norm: GatedNorm) -> int:
    """The length that the norm's attribute says: units, or elements along the first normalised dimension."""
    return int(norm.normalized_shape[0] if hasattr(norm, "normalized_shape") else norm.units)  # type: ignore[index, arg-type]


def actual_length(norm: GatedNorm) -> int:
    """The length that the norm's tensors have; if there are none, the units of its gate; else `length_of`."""
    for name, values in norm.current():
        if values.dim() and name != "count":
            return len(values)
    return norm.gate.units if norm.gate is not None else length_of(norm)


def set_length(norm: Any, length: int) -> None:
    """Set the attribute that `length_of` reads."""
    if hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (length, *norm.normalized_shape[1:])
    else:
        setattr(norm, "num_channels" if isinstance(norm, HATGroupNorm) else "num_features", length)


def follow_layout(norm: GatedNorm, body: Converted) -> None:
    """Set the length of a norm without tensors to the length of the units in the graph where the norm is called."""
    if any(values.dim() for name, values in norm.current() if name != "count"):
        return
    for node in body.network.graph.nodes:
        if node.op == "call_module" and body.network.get_submodule(str(node.target)) is norm:
            layout = body.layouts.get(node.name)
            if isinstance(layout, Layout):
                dim = 1 if norm.unit_dim == 1 else len(layout.shape) - len(getattr(norm, "normalized_shape", (1,)))
                set_length(norm, layout.shape[dim])
