"""The heads of a model: one linear layer for every task, and a placeholder for a forgotten task."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from hat.network.network import Network


class ForgottenHead(nn.Module):
    """Stands in place of the head of a forgotten task, so that other tasks keep their ids. It has no tensors.

    Raises:
        ValueError: in `forward`, always.
    """

    def forward(self, *_: Any) -> NoReturn:
        raise ValueError("task: expected a task that is not forgotten, got one whose head is gone")


def make_head(model: Network, classes: int) -> nn.Linear:
    """A new head for a model, on the device and in the dtype of its body. The model does not have it yet."""
    embeddings = {id(embedding) for embedding in model.embeddings}  # float32, whatever the dtype of the body
    like = next((p for p in model.body.parameters() if id(p) not in embeddings), model.embeddings[0])
    return nn.Linear(model.features, classes, device=like.device, dtype=like.dtype)
