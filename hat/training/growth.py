"""Growing before a network runs out of units."""

from __future__ import annotations

import math

from hat.life.model import HATModel
from hat.reports.forecast import forecast
from hat.resizing.grow import grow_what_can
from hat.training.ranges import check_choice

GROWTHS = ("auto",)
ROOM = 2
"""For so many tasks like the last ones an axis has room once it has grown."""


def check_growth(grow: str | None) -> None:
    """Validate an option.

    Raises:
        ValueError: it is neither None nor one of `GROWTHS`.
    """
    if grow is not None:
        check_choice("grow", grow, GROWTHS)


def wanted(model: HATModel) -> dict[str, int]:
    """How many units the axes need that are too full for one more task like the last ones, by the name of the gate."""
    rows = [row for row in forecast(model).rows if row.free < row.mean_new]
    return {row.name: math.ceil(ROOM * row.mean_new) - row.free for row in rows}


def make_room(model: HATModel) -> dict[str, int]:
    """Grow those; how many have joined each. An axis that cannot grow is left, with a `CapacityWarning`."""
    return grow_what_can(model, wanted(model))
