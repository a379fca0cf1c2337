"""What happens to a network that is converted and learns two tasks."""

from __future__ import annotations

import copy
import time
import traceback
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat
from hat.units.state import OPEN
from hat_kernels.lock import rate
from tests.zoo.architectures import Architecture

SAMPLES, STEPS, CLASSES = 4, 3, 5
ROUNDING = 2e-4  # of the largest value: matmuls of a converted network sum in another order


class WrongError(Exception):
    """A converted network that is not what it has to be."""


def examine(architecture: Architecture) -> dict[str, Any]:
    """A row of the table; nothing is raised.

    Returns:
        `outcome`: "converted", which has passed every check; "refused", with the `reason` that `hat.convert` gave; or
        "error", with what went wrong. The other entries are figures of the network, as far as they are known.
    """
    torch.manual_seed(0)
    row: dict[str, Any] = {"name": architecture.name, "family": architecture.family}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _examine(architecture, row)
        return row | {"outcome": "converted"}
    except hat.ConversionError as error:
        return row | {"outcome": "refused", "reason": str(error)}
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, WrongError) else f" ({last.filename.rpartition('/')[2]}:{last.lineno})"
        return row | {"outcome": "error", "reason": f"{type(error).__name__}: {error}{where}"}


def _examine(architecture: Architecture, row: dict[str, Any]) -> None:
    network = architecture.make()
    row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    original, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    start = time.perf_counter()
    model = hat.convert(network, architecture.inputs(2), head=architecture.head)
    row["seconds"] = time.perf_counter() - start
    if any(not torch.equal(value, before[name]) for name, value in network.state_dict().items()):
        raise WrongError("the network itself was changed")
    row["gates"], row["units"] = len(model.gates), sum(gate.units for gate in model.gates.values())
    row["difference"] = _difference(model, original, architecture)
    if not row["difference"] <= ROUNDING:
        raise WrongError(f"with open gates features differ by {row['difference']:.2g} of the largest")
    row |= _learn_two(model, architecture)


@torch.no_grad()
def _difference(model: hat.HATModel, original: nn.Module, architecture: Architecture) -> float:
    """Between what the heads see with open gates and what the head of the original saw, over the largest of it."""
    inputs = architecture.inputs(SAMPLES)
    seen: list[Tensor] = []
    head = model.body.head
    if head is not None:
        original.get_submodule(head).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    seen.append(original(inputs))
    model.eval()
    with model.state.answering(OPEN):
        features = model.body(inputs)
    expected = seen[0].reshape(features.shape)
    return float((features - expected).abs().max() / expected.abs().max())


def _learn_two(model: hat.HATModel, architecture: Architecture) -> dict[str, float]:
    """Learn two tasks; what the first one answers must not move, and something else must."""
    probes = hat.Probes()
    _learn(model, architecture)
    shares = _shares(model)
    probes.add(model, 0, architecture.inputs(SAMPLES))
    shared = {name: p.detach().clone() for name, p in model.body.named_parameters() if p.requires_grad}
    _learn(model, architecture)
    found = hat.verify(model, probes)
    if not found.exact:
        raise WrongError(f"forgets: {found}")
    moved = sum(not torch.equal(shared[name], p) for name, p in model.body.named_parameters() if name in shared)
    if not moved:
        raise WrongError("the second task moved no parameter")
    return {**shares, "drift": found.largest}


def _learn(model: hat.HATModel, architecture: Architecture) -> None:
    model.begin_task(CLASSES)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for step in range(STEPS):
        model.anneal(step / (STEPS - 1))
        logits = model(architecture.inputs(SAMPLES)).reshape(SAMPLES, -1, CLASSES).mean(1)
        loss = F.cross_entropy(logits, torch.randint(0, CLASSES, (SAMPLES,))) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.end_task()


def _shares(model: hat.HATModel) -> dict[str, float]:
    """Of the units: used by the first task. Of the shared parameters: locked by it, and frozen by it."""
    locks, frozen = model.locks(), set(model.frozen_parameters()) - set(model.heads.parameters())
    locked = sum(float((rate(lock, p).expand_as(p) == 0).sum()) for p, lock in locks.items() if lock is not None)
    stuck = sum(p.numel() for p in frozen)
    count = sum(p.numel() for p in locks) + stuck
    used = sum(float(gate.used.sum()) for gate in model.gates.values())
    units = sum(gate.units for gate in model.gates.values())
    return {"used": used / units, "locked": locked / count, "frozen": stuck / count}
