"""Convert a network, let it learn two tasks, and check the result."""

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
ROUNDING = 2e-4  # of the largest value; a converted network sums in another order than the original


class WrongError(Exception):
    """A converted network failed a check."""


def examine(architecture: Architecture) -> dict[str, Any]:
    """Examine a network. No exception leaves this function.

    Returns:
        A row of the table. `outcome` is "converted" if the network passed every check; "refused" if `hat.convert`
        refused the network, with the `reason`; otherwise "error", with the `reason`. The other entries are the figures
        that were measured before an error.
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
        place = "" if isinstance(error, WrongError) else f" ({last.filename.rpartition('/')[2]}:{last.lineno})"
        return row | {"outcome": "error", "reason": f"{type(error).__name__}: {error}{place}"}


def _examine(architecture: Architecture, row: dict[str, Any]) -> None:
    network = architecture.make()
    row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    original, before = copy.deepcopy(network), copy.deepcopy(network.state_dict())
    start = time.perf_counter()
    model = hat.convert(network, architecture.inputs(2), head=architecture.head)
    row["seconds"] = time.perf_counter() - start
    if any(not torch.equal(value, before[name]) for name, value in network.state_dict().items()):
        raise WrongError("hat.convert changed the original network")
    row["gates"], row["units"] = len(model.gates), sum(gate.units for gate in model.gates.values())
    row["difference"] = _difference(model, original, architecture)
    if not row["difference"] <= ROUNDING:
        raise WrongError(f"with open gates, the features differ by {row['difference']:.2g} of the largest feature")
    row |= _learn_two(model, architecture)


@torch.no_grad()
def _difference(model: hat.HATModel, original: nn.Module, architecture: Architecture) -> float:
    """The largest difference between the inputs of the heads, with open gates, and the input of the original's head.

    It is divided by the largest input of the original's head.
    """
    inputs = architecture.inputs(SAMPLES)
    head_inputs: list[Tensor] = []
    head = model.body.head
    if head is not None:
        original.get_submodule(head).register_forward_pre_hook(lambda _, args: head_inputs.append(args[0]))
    head_inputs.append(original(inputs))  # without a head, the output is the input of the heads
    model.eval()
    with model.state.answering(OPEN):
        features = model.body(inputs)
    expected = head_inputs[0].reshape(features.shape)
    return float((features - expected).abs().max() / expected.abs().max())


def _learn_two(model: hat.HATModel, architecture: Architecture) -> dict[str, float]:
    """Learn two tasks. The logits of the first task must not change, and the second task must move some parameter."""
    probes = hat.Probes()
    _learn(model, architecture)
    shares = _shares(model)
    probes.add(model, 0, architecture.inputs(SAMPLES))
    shared = {name: p.detach().clone() for name, p in model.body.named_parameters() if p.requires_grad}
    _learn(model, architecture)
    verification = hat.verify(model, probes)
    if not verification.exact:
        raise WrongError(f"forgets: {verification}")
    moved = sum(not torch.equal(shared[name], p) for name, p in model.body.named_parameters() if name in shared)
    if not moved:
        raise WrongError("the second task moved no parameter")
    return {**shares, "drift": verification.largest}


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
    """After the first task: the share of used units, and the shares of locked and frozen parameters."""
    locks, frozen_parameters = model.locks(), set(model.frozen_parameters()) - set(model.heads.parameters())
    locked = sum(float((rate(lock, p).expand_as(p) == 0).sum()) for p, lock in locks.items() if lock is not None)
    frozen = sum(p.numel() for p in frozen_parameters)
    count = sum(p.numel() for p in locks) + frozen
    used = sum(float(gate.used.sum()) for gate in model.gates.values())
    units = sum(gate.units for gate in model.gates.values())
    return {"used": used / units, "locked": locked / count, "frozen": frozen / count}
