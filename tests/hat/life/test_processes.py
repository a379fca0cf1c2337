"""Several processes begin and end tasks together; every process says so if another one does not."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hat
from hat.network.processes import checksum
from tests.hat.several import Processes

SHORT = 2.0  # seconds, the timeout of a group in which a process does not come


@pytest.fixture(scope="module")
def two():
    processes = Processes(2)
    yield processes
    processes.close()


def mlp(**options):
    return hat.HATModel(hat.models.mlp(20, hidden=(30, 30)), **options)


def with_norm_and_loose(**options):
    """A network with running statistics, and with a parameter along no gate, which freezes after the first task."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(20, 16), nn.BatchNorm1d(16)
            self.shift = nn.Linear(20, 20)
            self.second, self.last = nn.Linear(16, 12), nn.Linear(12, 2)

        def forward(self, x):
            return self.last(self.second(self.norm(self.first(self.shift(x))).relu()).relu())

    return hat.convert(
        Shifted(), torch.randn(4, 20), filter=lambda module, name: name != "shift", process_group="default", **options
    )


class Around(nn.Module):
    """A user's module with a model inside."""

    def __init__(self, model):
        super().__init__()
        self.inner = nn.Module()
        self.inner.model = model

    def forward(self, x):
        return self.inner.model(2 * x) * 0.5


def learn(model, call, rank, *, steps=4, sync=None, optimizer=hat.optim.SGD, lr=0.1):
    """Train the current task on samples of this process alone."""
    optimizer = optimizer(model.task_parameters(), lr=lr)
    generator = torch.Generator().manual_seed(100 * rank + model.task)
    for step in range(steps):
        model.anneal(step / max(steps - 1, 1))
        optimizer.zero_grad()
        for micro in range(2 if sync else 1):
            x = torch.randn(16, 20, generator=generator)
            y = torch.randint(0, 2, (16,), generator=generator)
            with sync() if sync and not micro else nullcontext():
                (F.cross_entropy(call(x), y) + 0.75 * model.penalty()).backward()
        optimizer.step()


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def differences(states):
    first, second = states
    assert isinstance(first, dict), first
    assert isinstance(second, dict), second
    assert first.keys() == second.keys()
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]


# -- a wrapper -----------------------------------------------------------------------------------------------------


def wrapped_tasks(rank, network, when, options, sync=False, tasks=3):
    """Three tasks under a wrapper; the processes start with other values, and draw other ones.

    Returns:
        The state at the end, and whether old logits kept every bit.
    """
    torch.manual_seed(rank)
    model = {"mlp": mlp, "norm": with_norm_and_loose}[network]()
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(7))

    def wrap():
        return DistributedDataParallel(Around(model) if when == "around" else model, **options)

    wrapper = wrap() if when in ("once", "around") else None
    before = []
    for task in range(tasks):
        model.begin_task(2 + task)
        if when == "each" or (when == "after" and wrapper is None):
            wrapper = wrap()
        learn(model, wrapper, rank, sync=wrapper.no_sync if sync else None)
        model.end_task()
        before.append(model(x, task=task).detach().clone())
    kept = all(torch.equal(model(x, task=task), logits) for task, logits in enumerate(before))
    return state(model), kept


@pytest.mark.parametrize("network", ["mlp", "norm"])
@pytest.mark.parametrize(
    ("options", "sync"),
    [
        ({}, False),
        ({}, True),
        ({"find_unused_parameters": True}, False),
        ({"static_graph": True}, False),
        ({"gradient_as_bucket_view": True}, True),
    ],
)
def test_a_wrapper_made_once_trains_as_one_made_for_every_task(two, tmp_path, network, options, sync):
    results = {when: two.run(wrapped_tasks, tmp_path, network, when, options, sync) for when in ("each", "once", "after")}
    for when, (first, second) in results.items():
        assert isinstance(first, tuple), (when, first)
        assert isinstance(second, tuple), (when, second)
        assert first[1], when
        assert second[1], when
        assert not differences([first[0], second[0]]), when
        assert not differences([first[0], results["each"][0][0]]), when


def test_a_wrapper_around_a_module_that_holds_the_model(two, tmp_path):
    first, second = two.run(wrapped_tasks, tmp_path, "mlp", "around", {})
    assert not differences([first[0], second[0]])
    assert first[1]
