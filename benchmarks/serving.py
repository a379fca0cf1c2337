"""A network that has learned many tasks and answers for them: one task a batch, a task a sample, or task by task."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

import hat
from benchmarks.ours import body, finish
from benchmarks.workload import Network, batches, used_units
from hat.network.mixing import in_parts, rows_of

ONE, MIXED, APART = "one task", "mixed", "task by task"
KINDS = (ONE, MIXED, APART)
TASKS = 32
SHARE = 0.4  # of the units of every gate, others in each task

Call = Callable[[], Tensor]


def served(network: Network, tasks: int = TASKS) -> hat.HATModel:
    """A network with finished tasks, in evaluation mode."""
    torch.manual_seed(0)
    model = hat.HATModel(body(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.CapacityWarning)  # units that the tasks share are enough here
        for task in range(tasks):
            finish(model, used_units(network.units, SHARE, seed=task), network.classes)
    return model


def calls(model: hat.HATModel, network: Network, batch: int, device: str = "cpu") -> dict[str, Call]:
    """The same samples three times: all of one task; of as many tasks as the model has, in one pass; and in as many.

    The ids are on the host, so that nothing waits for a GPU.
    """
    x = batches(network, batch, 1)[0][0].to(device)
    ids = torch.randperm(batch, generator=torch.Generator().manual_seed(0)) % model.tasks
    rows = rows_of(ids.tolist())

    def evaluated(call: Call) -> Call:
        def run() -> Tensor:
            with torch.inference_mode():
                return call()

        return run

    found = {
        ONE: lambda: model(x, task=0),
        MIXED: lambda: model(x, task=ids),
        APART: lambda: in_parts(x, rows, model.answer),
    }
    return {name: evaluated(call) for name, call in found.items()}
