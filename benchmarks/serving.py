"""A network with many finished tasks, and three ways to answer for a batch.

`one task`: all samples belong to one task. `mixed`: every sample has its own task id, in one call. `task by task`: one
call per task, on the samples of the task.
"""

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
SHARE = 0.4  # the share of every gate's units that a task uses; every task uses other units

Call = Callable[[], Tensor]


def served(network: Network, tasks: int = TASKS) -> hat.HATModel:
    """A network with finished tasks, in evaluation mode."""
    torch.manual_seed(0)
    model = hat.HATModel(body(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.CapacityWarning)  # the tasks share units and need no free ones
        for task in range(tasks):
            finish(model, used_units(network.units, SHARE, seed=task), network.classes)
    return model


def calls(model: hat.HATModel, network: Network, batch: int, device: str = "cpu") -> dict[str, Call]:
    """Make the calls for the three ways to answer, see the module docstring. All calls get the same samples.

    The task ids are on the host, so that no call waits for a GPU.
    """
    x = batches(network, batch, 1)[0][0].to(device)
    ids = torch.randperm(batch, generator=torch.Generator().manual_seed(0)) % model.tasks
    rows = rows_of(ids.tolist())

    def evaluated(call: Call) -> Call:
        def run() -> Tensor:
            with torch.inference_mode():
                return call()

        return run

    ways = {
        ONE: lambda: model(x, task=0),
        MIXED: lambda: model(x, task=ids),
        APART: lambda: in_parts(x, rows, model.answer),
    }
    return {name: evaluated(call) for name, call in ways.items()}
