"""What a state of a model says besides tensors: the tasks, and their classes, as JSON in a uint8 tensor.

Example: `{"learning": true, "classes": [["cat", "dog"], [], ["0", "1", "2"]], "forgotten": [1]}` is a model with two
finished tasks, of which task 1 is forgotten, and with a third task that is being learned.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat.network.network import Network
from hat.network.seals import Seals, restored, to_save


class Facts(NamedTuple):
    """The tasks of a model.

    Attributes:
        learning: the last task is being learned.
        classes: the names of the classes of every task; no names for a forgotten task.
        forgotten: the ids of the forgotten tasks, in order.
        sealed: the seals of what finished tasks use, see `hat.network.seals`; None in states of earlier versions.
        drifted: the name of the first tensor that has differed from its seal, or None.
    """

    learning: bool
    classes: tuple[tuple[str, ...], ...]
    forgotten: tuple[int, ...]
    sealed: Seals | None = None
    drifted: str | None = None

    @property
    def tasks(self) -> int:
        """How many tasks are finished."""
        return len(self.classes) - self.learning

    @classmethod
    def of(cls, model: Network) -> Facts:
        """The tasks of a model as it is now."""
        return cls(model.learning, tuple(model.classes), model.forgotten, to_save(model), model.drifted)

    def written(self) -> Tensor:
        """uint8 [bytes], the facts as JSON."""
        return torch.frombuffer(bytearray(json.dumps(self._asdict()).encode()), dtype=torch.uint8).clone()

    @classmethod
    def read(cls, state: Any) -> Facts:
        """The facts in a tensor of `written`.

        Raises:
            ValueError: the value is no such tensor, or its parts contradict each other.
        """
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1 or state.is_meta:
            raise ValueError(f"expected JSON as a uint8 tensor of one dimension, got {_told(state)}")
        try:
            written = json.loads(state.cpu().numpy().tobytes())
        except (ValueError, RecursionError) as error:
            reason = "lists that are too deep" if isinstance(error, RecursionError) else "other text"
            raise ValueError(f"expected JSON, got {reason}") from None
        if not isinstance(written, dict):
            raise ValueError(f"expected a JSON object, got {type(written).__name__}")
        learning, classes, forgotten, sealed, drifted = (written.get(name) for name in cls._fields)
        if not isinstance(learning, bool):
            raise ValueError(f"learning: expected true or false, got {learning!r}")
        if not isinstance(classes, list) or not all(map(_are_names, classes)):
            raise ValueError("classes: expected a list of different names for every task")
        count = len(classes) - learning
        if count < 0:
            raise ValueError("classes: expected the classes of the task that is being learned, got none")
        if not isinstance(forgotten, list) or not all(type(task) is int and 0 <= task < count for task in forgotten):
            raise ValueError(f"forgotten: expected ids of the {count} finished tasks, got {forgotten!r}"[:200])
        if [task for task, names in enumerate(classes) if not names] != sorted(set(forgotten)):
            raise ValueError("classes: expected no names for forgotten tasks only")
        if not isinstance(drifted, str | None):
            raise ValueError(f"drifted: expected the name of a tensor or null, got {drifted!r}"[:200])
        return cls(learning, tuple(map(tuple, classes)), tuple(sorted(set(forgotten))), restored(sealed), drifted)


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of {tuple(value.shape)} on {value.device}"
