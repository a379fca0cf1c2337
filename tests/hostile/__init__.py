"""Hostile and damaged files of every kind that the library reads; each is built by a few lines when the tests run."""

from __future__ import annotations

from tests.hostile import archives, arrays, checkpoints, images, pickles, runs
from tests.hostile.kind import Kind


def all_kinds() -> list[Kind]:
    """Every kind, in a fixed order."""
    return [kind for room in (pickles, arrays, archives, images, checkpoints, runs) for kind in room.kinds()]
