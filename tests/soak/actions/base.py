"""The base class of the actions, and their registry."""

from __future__ import annotations

import random
import re
from typing import ClassVar

from tests.soak.world import World

ACTIONS: dict[str, Action] = {}
"""Every action by its name."""


class Action:
    """Something that a user does with a model. A subclass with a `name` registers itself.

    Attributes:
        name: in a sequence that is printed, and on the command line.
        weight: how often it is drawn, compared with other actions.
        refusals: the errors that the library may answer with: (class, a regular expression that the message matches).
            After a refusal all promises hold as before.
        may_stop: Ctrl-C is tried during the action, too.
    """

    name: ClassVar[str] = ""
    weight: float = 1.0
    refusals: ClassVar[tuple[tuple[type[Exception], str], ...]] = ()
    may_stop: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.name:
            ACTIONS[cls.name] = cls()

    def possible(self, world: World) -> bool:
        """Whether the action makes sense now."""
        return True

    def perform(self, world: World, rng: random.Random) -> None:
        """Do it. All that is random comes from `rng`, and from torch's generator, which is seeded."""
        raise NotImplementedError

    def refuses(self, error: Exception) -> bool:
        """Whether the error is one that the library may answer with."""
        return any(isinstance(error, kind) and re.search(text, str(error)) for kind, text in self.refusals)
