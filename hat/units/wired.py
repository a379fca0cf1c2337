"""A body that knows which modules read and make the units of its gates."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hat.units.gate import Gate


class Wired:
    """A body that knows which modules read and make the units of its gates.

    Attributes:
        tail: the gate whose units are the features, one or several features in a row per unit; None if there is none.
        features: the number of features; None if it is the number of units of the last gate.
        reasons: for names of parameters that no two tasks share, the name that the parameter had in the network that
            the body was made from, and why tasks do not share it.
    """

    tail: Gate | None = None
    features: int | None = None
    reasons: Mapping[str, tuple[str, str]] = MappingProxyType({})

    def complete(self) -> dict[Gate, bool]:
        """For every gate, whether only this body and the heads behind it read the units."""
        raise NotImplementedError

    def seen_by_heads(self) -> set[Gate]:
        """Gates that are complete except for the heads, which read their units at known places among other features."""
        return set()
