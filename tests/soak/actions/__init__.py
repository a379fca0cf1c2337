"""What may happen to a model: one class an action, by name in `ACTIONS`."""

from tests.soak.actions import flags, life, serving, states, training
from tests.soak.actions.base import ACTIONS, Action
from tests.soak.actions.interrupted import Interrupted

__all__ = ["ACTIONS", "Action", "flags", "life", "serving", "states", "training"]

for _action in list(ACTIONS.values()):
    if _action.may_stop:
        Interrupted(_action)
