"""Networks whose one task uses a given share of every layer, and their exported and dense networks."""

from __future__ import annotations

import copy

import torch
from torch import nn

import hat
from benchmarks.ours import body, finish
from benchmarks.workload import Network, used_units

SHARES = (0.25, 0.5, 0.75)
DENSE, EXPORTED = "dense", "exported"
KINDS = (DENSE, EXPORTED)


def model_of_share(network: Network, share: float) -> hat.HATModel:
    """A network whose one task uses exactly `round(share N)` units of every gate."""
    torch.manual_seed(0)
    model = hat.HATModel(body(network))
    finish(model, used_units(network.units, share), network.classes)
    return model


def dense_and_exported(model: hat.HATModel, task: int) -> dict[str, nn.Module]:
    """Two networks of the same plain modules for one task: `dense` has all units, `exported` has the task's units."""
    all_used = copy.deepcopy(model)
    for gate in all_used.gates.values():
        gate.masks[task] = 1
    return {DENSE: hat.export(all_used, task=task), EXPORTED: hat.export(model, task=task)}
