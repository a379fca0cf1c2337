"""What a body that wires its own gates tells about them."""

from __future__ import annotations

from typing import NamedTuple

from hat.units.gate import Gate


class Reach(NamedTuple):
    """The gate whose units arrive somewhere, and where they lie.

    Attributes:
        gate: the gate.
        layout: `"channels"`, dimension 1 of (B, N, *spatial); `"last"`, the last dimension; `"flat"`, channels after a
            flatten, each repeated, channel-major.
    """

    gate: Gate
    layout: str


class Wired:
    """A body that knows what meets the units of its gates.

    Attributes:
        tail: what arrives at the end.
        features: the length of its last dimension; None where it is that of the last gate.
    """

    tail: Reach | None = None
    features: int | None = None

    def complete(self) -> dict[Gate, bool]:
        """Whether every gate meets nothing outside of this body, but for what comes behind its end."""
        raise NotImplementedError

    def seen_by_heads(self) -> set[Gate]:
        """Gates that are complete but for heads, which see their units at known places among others."""
        return set()
