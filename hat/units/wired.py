"""What a body that wires its own gates tells about them."""

from __future__ import annotations

from hat.units.gate import Gate


class Wired:
    """A body that knows what meets the units of its gates.

    Attributes:
        tail: the gate whose units the features are, each unit one or several in a row; None if no gate is.
        features: the length of its last dimension; None where it is that of the last gate.
    """

    tail: Gate | None = None
    features: int | None = None

    def complete(self) -> dict[Gate, bool]:
        """Whether every gate meets nothing outside of this body, but for what comes behind its end."""
        raise NotImplementedError

    def seen_by_heads(self) -> set[Gate]:
        """Gates that are complete but for heads, which see their units at known places among others."""
        return set()
