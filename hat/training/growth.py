"""Grow a network before it runs out of free units."""

from __future__ import annotations

import math

from hat.arguments import check_choice
from hat.life.model import HATModel
from hat.reports.forecast import forecast
from hat.resizing.grow import grow_what_can

GROWTHS = ("auto",)
ROOM = 2
"""A grown axis has free units for this many tasks like the last ones."""


def check_growth(grow: str | None) -> None:
    """Validate the option `grow`.

    Raises:
        ValueError: `grow` is neither None nor one of `GROWTHS`.
    """
    if grow is not None:
        check_choice("grow", grow, GROWTHS)


def units_needed(model: HATModel) -> dict[str, int]:
    """How many units to add, by the name of the gate, for each axis too full for one more task like the last ones."""
    rows = [row for row in forecast(model).rows if row.free < row.mean_new]
    return {row.name: math.ceil(ROOM * row.mean_new) - row.free for row in rows}


def make_room(model: HATModel) -> dict[str, int]:
    """Add the units that the next task needs.

    Returns:
        How many units were added, by the name of the gate.

    Warns:
        CapacityWarning: an axis cannot grow; it is left as it is.
    """
    return grow_what_can(model, units_needed(model))
