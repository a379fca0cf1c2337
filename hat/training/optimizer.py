"""The optimizer of one task."""

from __future__ import annotations

import math

import torch

import hat.optim
from hat.life.model import HATModel
from hat.optim.guard import guard
from hat.training.config import TrainConfig


def make_optimizer(model: HATModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names over the parameters of the current task, locked and clipped."""
    parameters = model.task_parameters()
    max_norm = config.clip if math.isfinite(config.clip) else None
    decay = config.weight_decay
    if config.optimizer == "sgd":
        return hat.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=decay, max_norm=max_norm)
    if config.optimizer in ("adam", "adamw"):
        decoupled = config.optimizer == "adamw"
        return hat.optim.AdamW(
            parameters, config.lr, weight_decay=decay, decoupled_weight_decay=decoupled, max_norm=max_norm
        )
    in_a_graph = config.graph and config.torch_device().type == "cuda"
    optimizer = torch.optim.RMSprop(
        parameters, config.lr, momentum=config.momentum, weight_decay=decay, capturable=in_a_graph
    )
    return guard(optimizer, model, max_norm=max_norm)
