"""What makes a run that run: a resumed one must have the same."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hat.data import Task
from hat.life.model import HATModel
from hat.training.config import TrainConfig

PARTS = ("train", "validation", "test")
_ELSEWHERE = ("device", "graph")  # where and how a step runs, not what it computes
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
    """Plain numbers and strings that tell a run from others.

    Args:
        model: fresh.
        stream: the tasks, known by names, classes, shapes and `Part.fingerprint`.
        config: the recipe.
        grow: how the model grows.
    """
    network = re.sub(r" at 0x[0-9a-fA-F]+", "", f"{type(model).__name__}: {model.body}")
    return {
        "config": asdict(config),
        "gates": asdict(model.config),
        "network": network,
        "tasks": [_task(task) for task in stream],
        "grow": grow,
    }


def check_same(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare the identity in a checkpoint with the present one; `_ELSEWHERE` may differ.

    Raises:
        ValueError: they differ; names the first option or task that does.
    """
    for part in ("config", "gates"):
        for name, value in now[part].items():
            then = saved[part].get(name)
            if name not in _ELSEWHERE and then != value:
                raise ValueError(f"{name}: expected {then} as in the checkpoint, got {value}")
    if saved["grow"] != now["grow"]:
        raise ValueError(f"grow: expected {saved['grow']} as in the checkpoint, got {now['grow']}")
    if saved["network"] != now["network"]:
        raise ValueError("model: expected the network of the checkpoint, got one of other layers")
    if len(saved["tasks"]) != len(now["tasks"]):
        raise ValueError(f"stream: expected {len(saved['tasks'])} tasks as in the checkpoint, got {len(now['tasks'])}")
    for index, (then, here) in enumerate(zip(saved["tasks"], now["tasks"], strict=True)):
        for fact in ("name", "classes", "input_shape"):
            if then[fact] != here[fact]:
                expected = f"{then[fact]} as in the checkpoint"
                raise ValueError(f"stream: expected {expected} as {fact} of task {index}, got {here[fact]}")
        for part in PARTS:
            if not _equal(then[part], here[part]):
                raise ValueError(f"stream: expected the {part} data of the checkpoint in task {index}, got other data")


def _task(task: Task) -> dict[str, Any]:
    facts = {"name": task.name, "classes": list(task.classes), "input_shape": list(task.input_shape)}
    return {**facts, **{part: getattr(task, part).fingerprint() for part in PARTS}}


def _equal(then: list[float], here: list[float]) -> bool:
    """The checksums are equal, and the means but for the rounding of another machine."""
    return (
        len(then) == len(here)
        and then[:1] == here[:1]
        and all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(then[1:], here[1:], strict=True))
    )
