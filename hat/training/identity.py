"""The identity of a run: a run can be resumed only with the same network, data and options."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hat.data import Task
from hat.life.model import HATModel
from hat.text import printable
from hat.training.config import TrainConfig

PARTS = ("train", "validation", "test")
_MAY_DIFFER = ("device", "graph")  # they say where and how a step runs, not what it computes
IDENTITY_FORM = {
    "config": dict,
    "gates": dict,
    "network": str,
    "tasks": [{"name": str, "classes": [str], "input_shape": [int], **{part: [(int, float)] for part in PARTS}}],
    "grow": (str, type(None)),
}


def identity(
    model: HATModel, stream: Sequence[Task], config: TrainConfig, *, grow: str | None = None
) -> dict[str, Any]:
    """Plain numbers and strings that tell this run from others.

    Args:
        model: a fresh model.
        stream: the tasks; their names, classes, shapes and `Part.fingerprint` are part of the identity.
        config: the recipe.
        grow: how the model grows.
    """
    return {
        "config": asdict(config),
        "gates": asdict(model.config),
        "network": layers_of(model),
        "tasks": [_task(task) for task in stream],
        "grow": grow,
    }


def layers_of(model: HATModel) -> str:
    """The type of a model and the layers of its body, as text without addresses."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(model).__name__}: {model.body}")


def check_same(saved: dict[str, Any], present: dict[str, Any]) -> None:
    """Compare the identity in a checkpoint with the identity of the present run. Options in `_MAY_DIFFER` may differ.

    Raises:
        ValueError: the identities differ; the message names the first option or task that differs.
    """
    for part in ("config", "gates"):
        for name, value in present[part].items():
            saved_value = saved[part].get(name)
            if name not in _MAY_DIFFER and saved_value != value:
                raise ValueError(f"{name}: expected {_short(saved_value)} as in the checkpoint, got {_short(value)}")
    if saved["grow"] != present["grow"]:
        raise ValueError(f"grow: expected {_short(saved['grow'])} as in the checkpoint, got {present['grow']}")
    if saved["network"] != present["network"]:
        raise ValueError("model: expected the network of the checkpoint, got a network of other layers")
    if len(saved["tasks"]) != len(present["tasks"]):
        expected = f"{len(saved['tasks'])} tasks as in the checkpoint"
        raise ValueError(f"stream: expected {expected}, got {len(present['tasks'])}")
    for index, (saved_task, task) in enumerate(zip(saved["tasks"], present["tasks"], strict=True)):
        for fact in ("name", "classes", "input_shape"):
            if saved_task[fact] != task[fact]:
                expected = f"{_short(saved_task[fact])} as in the checkpoint"
                raise ValueError(f"stream: expected {expected} as {fact} of task {index}, got {_short(task[fact])}")
        for part in PARTS:
            if not _same_fingerprint(saved_task[part], task[part]):
                raise ValueError(f"stream: expected the {part} data of the checkpoint in task {index}, got other data")


def _short(value: object) -> str:
    """A value in at most 100 characters."""
    text = printable(str(value))
    return text if len(text) <= 100 else f"{text[:97]}..."


def _task(task: Task) -> dict[str, Any]:
    facts = {"name": task.name, "classes": list(task.classes), "input_shape": list(task.input_shape)}
    return {**facts, **{part: getattr(task, part).fingerprint() for part in PARTS}}


def _same_fingerprint(saved: list[float], present: list[float]) -> bool:
    """Whether the checksums are equal, and the means nearly equal: another machine may round them differently."""
    return (
        len(saved) == len(present)
        and saved[:1] == present[:1]
        and all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(saved[1:], present[1:], strict=True))
    )
