"""Networks of which a task uses a given share of every layer, exported, and the plain networks that they come from."""

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


def of_share(network: Network, share: float) -> hat.HATModel:
    """A network whose one task uses exactly `round(share N)` units of every gate."""
    torch.manual_seed(0)
    model = hat.HATModel(body(network))
    finish(model, used_units(network.units, share), network.classes)
    return model


def both(model: hat.HATModel, task: int) -> dict[str, nn.Module]:
    """The network of a task with all units, and with those that it uses: of the same plain modules."""
    full = copy.deepcopy(model)
    for gate in full.gates.values():
        gate.masks[task] = 1
    return {DENSE: hat.export(full, task=task), EXPORTED: hat.export(model, task=task)}
