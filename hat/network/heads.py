"""The heads of a model: one linear layer a task, and what is left of one that was forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor, nn


class ForgottenHead(nn.Module):
    """In the place of the head of a forgotten task, so that the ids of the others stay; it has no tensors."""

    def forward(self, *_: Any) -> NoReturn:
        raise ValueError("task: expected a task that is not forgotten, got one whose head is gone")


def facts(state: Tensor) -> dict[str, Any]:
    """What `HATModel.get_extra_state` has written."""
    found: dict[str, Any] = json.loads(bytes(state.cpu().tolist()))
    return found


def fitting(
    heads: nn.ModuleList, state_dict: Mapping[str, Any], prefix: str, make: Callable[[int], nn.Module]
) -> nn.ModuleList:
    """As many heads as a model's state has, of as many classes; `heads` themselves if they are that already.

    Args:
        heads: of the model.
        state_dict: that is about to be loaded.
        prefix: of the model's names in it.
        make: a head of this many classes.
    """
    begin = f"{prefix}heads."
    wanted: dict[int, int | None] = {
        int(key.removeprefix(begin).split(".")[0]): value.shape[0]
        for key, value in state_dict.items()
        if key.startswith(begin) and key.endswith(".weight")
    }
    extra = state_dict.get(f"{prefix}_extra_state")
    wanted |= dict.fromkeys(() if extra is None else facts(extra)["forgotten"])
    have = {task: getattr(head, "out_features", None) for task, head in enumerate(heads)}
    if wanted == have or sorted(wanted) != list(range(len(wanted))):
        return heads
    widths = (wanted[task] for task in range(len(wanted)))
    return nn.ModuleList(ForgottenHead() if width is None else make(width) for width in widths)
