"""The heads of a model: one linear layer for every task, and a placeholder for a forgotten task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor, nn


class ForgottenHead(nn.Module):
    """Stands in place of the head of a forgotten task, so that other tasks keep their ids. It has no tensors.

    Raises:
        ValueError: in `forward`, always.
    """

    def forward(self, *_: Any) -> NoReturn:
        raise ValueError("task: expected a task that is not forgotten, got one whose head is gone")


def read_extra_state(state: Tensor) -> dict[str, Any]:
    """The dictionary that `HATModel.get_extra_state` has written into a tensor."""
    written: dict[str, Any] = json.loads(state.cpu().numpy().tobytes())
    return written


def heads_for(
    heads: nn.ModuleList, state_dict: Mapping[str, Any], prefix: str, make: Callable[[int], nn.Module]
) -> nn.ModuleList:
    """Heads whose number and sizes fit a state that will be loaded.

    Args:
        heads: the present heads of the model.
        state_dict: the state that will be loaded.
        prefix: the prefix of the model's names in the state.
        make: number of classes -> a new head.

    Returns:
        `heads` if they fit already, else new heads. Also `heads` if the state lacks the head of some task: loading
        then fails with a message that names the head.
    """
    heads_prefix = f"{prefix}heads."
    classes_by_task: dict[int, int | None] = {
        int(key.removeprefix(heads_prefix).split(".")[0]): value.shape[0]
        for key, value in state_dict.items()
        if key.startswith(heads_prefix) and key.endswith(".weight")
    }
    extra_state = state_dict.get(f"{prefix}_extra_state")
    classes_by_task |= dict.fromkeys(() if extra_state is None else read_extra_state(extra_state)["forgotten"])
    present = {task: getattr(head, "out_features", None) for task, head in enumerate(heads)}
    if classes_by_task == present or sorted(classes_by_task) != list(range(len(classes_by_task))):
        return heads
    widths = (classes_by_task[task] for task in range(len(classes_by_task)))
    return nn.ModuleList(ForgottenHead() if width is None else make(width) for width in widths)
