"""Optimizers that the soak trains with: every class that takes dense gradients, in several options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn, optim

import hat

Make = Callable[[Any], optim.Optimizer]
"""Parameters to an optimizer."""


def muon(parameters: list[Tensor]) -> optim.Optimizer:
    """Muon, which takes matrices only."""
    return optim.Muon([p for p in parameters if p.dim() == 2], lr=0.05, weight_decay=0.1)


TORCH: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd-plain": lambda p: optim.SGD(p, lr=0.2, maximize=True),
    "sgd-foreach": lambda p: optim.SGD(p, lr=0.2, momentum=0.9, dampening=0.5, foreach=True),
    "sgd-fused": lambda p: optim.SGD(p, lr=0.2, momentum=0.9, weight_decay=0.1, fused=True),
    "adam": lambda p: optim.Adam(p, lr=0.05, amsgrad=True, weight_decay=0.1),
    "adam-fused": lambda p: optim.Adam(p, lr=0.05, amsgrad=True, fused=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.05, weight_decay=0.5),
    "adamw-foreach": lambda p: optim.AdamW(p, lr=0.05, maximize=True, foreach=True),
    "adamw-fused": lambda p: optim.AdamW(p, lr=0.05, weight_decay=0.5, fused=True),
    "nadam": lambda p: optim.NAdam(p, lr=0.05, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": lambda p: optim.RAdam(p, lr=0.05, weight_decay=0.1),
    "adamax": lambda p: optim.Adamax(p, lr=0.05, weight_decay=0.1, foreach=True),
    "adadelta": lambda p: optim.Adadelta(p, lr=0.5, weight_decay=0.1),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.2, weight_decay=0.1),
    "adagrad-fused": lambda p: optim.Adagrad(p, lr=0.2, fused=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.02, momentum=0.9, centered=True, weight_decay=0.1),
    "rprop": lambda p: optim.Rprop(p, lr=0.02),
    "asgd": lambda p: optim.ASGD(p, lr=0.1, weight_decay=0.1),
    "adafactor": lambda p: optim.Adafactor(p, lr=0.05, weight_decay=0.1),
    "muon": muon,
    "lbfgs": lambda p: optim.LBFGS(p, lr=0.3, max_iter=3, line_search_fn="strong_wolfe"),
}
"""Optimizers of torch, which `hat.guard` makes respect the locks."""

LOCKED: dict[str, Callable[[Any, hat.HATModel], optim.Optimizer]] = {
    "hat-sgd": lambda p, m: hat.optim.SGD(p, lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.1, model=m),
    "hat-sgd-clip": lambda p, m: hat.optim.SGD(p, lr=0.2, maximize=True, max_norm=0.5, model=m),
    "hat-sgd-in-backward": lambda p, m: hat.optim.SGD(p, lr=0.2, weight_decay=0.1, in_backward=True, model=m),
    "hat-adamw": lambda p, m: hat.optim.AdamW(p, lr=0.05, weight_decay=0.5, model=m),
    "hat-adam": lambda p, m: hat.optim.AdamW(p, lr=0.05, amsgrad=True, decoupled_weight_decay=False, model=m),
}
"""Optimizers of this library, which respect the locks by themselves."""


def trained(model: hat.HATModel, which: str) -> Any:
    """The parameters that an optimizer gets: those of the `"task"`, or `"all"` of the model."""
    return model.task_parameters() if which == "task" else list(model.parameters())


def head_in(optimizer: optim.Optimizer, head: nn.Linear) -> bool:
    """Whether the optimizer trains this head."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return id(head.weight) in held
