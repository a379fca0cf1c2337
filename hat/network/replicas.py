"""The processes that hold one model begin a task, end it and change units together: what they compare and share.

How they meet is in `hat.network.processes`. What they compare does not grow with the number of tasks. The masks, the
head and the own tensors of a finished task were compared when the task ended, and nobody writes to them afterwards.

    call            compared, and an error if it differs               taken from the first process
    begin_task      classes, used units, order of units;               embeddings, head, per-task tensors;
                    after the first task all but embeddings            before the first task all parameters and buffers
    end_task        all parameters, masks, used units, order of units  running statistics
    forget, grow    the arguments; all parameters, order of units      all parameters
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor, nn

from hat.network.network import Network
from hat.network.sharded import refuse_sharded
from hat.text import dotted
from hat.units.buffers import foreign
from hat.units.gate import Gate
from hat.units.per_task import PerTask

Result = TypeVar("Result")


def agree_to_begin(model: Network, check: Callable[[], Result]) -> Result:
    """Agree to begin a task; see `Processes.agree` for `check`, the result and the errors."""
    refuse_sharded(lambda: _own_parameters(model), "begin_task")
    started = _started(model)
    free = {**written(model), **(started if model.tasks else trained(model))}
    result, _ = model.processes.agree(
        f"begin_task of task {model.tasks}", lambda: (check(), repr(model.config)), lambda: _all(model), free=free
    )
    return result


def share_beginning(model: Network, head: nn.Module) -> None:
    """Take the first values of a task from the first process, before the task begins."""
    values = _started(model) | written(model) if model.tasks else trained(model) | written(model)
    named_head = {f"heads.{model.tasks}.{name}": parameter for name, parameter in head.named_parameters()}
    model.processes.take(f"begin_task of task {model.tasks}", values | named_head)


def agree_to_end(model: Network, check: Callable[[], Result]) -> Result:
    """Agree to end the task, and take from the first process what every process has written from its own samples."""
    refuse_sharded(lambda: _own_parameters(model), "end_task")
    call = f"end_task of task {len(model.heads) - 1}"
    result = model.processes.agree(call, check, lambda: _all(model) | masks(model), free=written(model))
    model.processes.take(call, written(model))
    return result


def agree_to_change(model: Network, call: str, check: Callable[[], Result]) -> Result:
    """Agree to change the units, between two tasks or during a task."""
    free = {**written(model), **({} if model.learning else _started(model))}
    return model.processes.agree(call, check, lambda: _all(model), free=free)


def share_change(model: Network, call: str) -> None:
    """Take the values of units that were drawn anew from the first process."""
    model.processes.take(call, trained(model) | written(model))


def trained(model: Network) -> dict[str, Tensor]:
    """What an optimizer of the present task may move, by name: shared and per-task parameters, embeddings, the head."""
    parameters: dict[str, Tensor] = {f"body.{name}": p for name, p in model.body.named_parameters()}
    names = {id(parameter) for parameter in parameters.values()}
    for name, gate in model.gates.items():
        for member in gate.members:
            if member.parameter is not None and id(member.parameter) not in names:  # of a module outside the body
                parameters[f"{type(member.module).__name__}.{member.name} along {name}"] = member.parameter
    head = {f"heads.{model.task}.{name}": p for name, p in model.head.named_parameters()} if model.learning else {}
    return parameters | head


def written(model: Network) -> dict[str, Tensor]:
    """The buffers that a forward pass of the present task may write to, such as running statistics, by name.

    Every process writes what its own samples give, under `DistributedDataParallel`, too.
    """
    statistics = {
        dotted("body", path, name): values
        for path, module in model.per_task.items()
        for name, values in module.current()
        if not isinstance(values, nn.Parameter)
    }
    return statistics | ({} if model._remembers else _buffers(model))


def read(model: Network) -> dict[str, Tensor]:
    """The buffers that the present task reads only, by name: used units, their order, initial values, fixed buffers."""
    buffers = _buffers(model) if model._remembers else {}
    for path, module in model.body.named_modules():
        if isinstance(module, Gate | PerTask):
            of_tasks = {"masks"} if isinstance(module, Gate) else {f"{name}_tasks" for name in module.kept}
            current = module.kept if isinstance(module, PerTask) else ()
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in of_tasks and name not in current:
                    buffers[dotted("body", path, name)] = buffer
    return buffers


def masks(model: Network) -> dict[str, Tensor]:
    """The mask [units] that every gate would commit now, by name."""
    return {
        f"{dotted('body', name, 'mask')} of task {model.task}": gate.hardened() for name, gate in model.gates.items()
    }


def _own_parameters(model: Network) -> Iterator[tuple[str, Tensor]]:
    """All parameters but the heads of finished tasks; `FullyShardedDataParallel` puts one into the model itself."""
    yield from model.named_parameters(recurse=False)
    yield from trained(model).items()


def _all(model: Network) -> dict[str, Tensor]:
    return trained(model) | written(model) | read(model)


def _started(model: Network) -> dict[str, Tensor]:
    """The parameters that start anew with every task: embeddings and per-task parameters."""
    embeddings: dict[str, Tensor] = {
        dotted("body", name, "embedding"): gate.embedding for name, gate in model.gates.items()
    }
    own = {
        dotted("body", path, name): values
        for path, module in model.per_task.items()
        for name, values in module.current()
        if isinstance(values, nn.Parameter)
    }
    return embeddings | own


def _buffers(model: Network) -> dict[str, Tensor]:
    """The buffers of the body that belong to no gate and no task."""
    return {f"body.{name}": buffer for name, (_, _, buffer) in foreign(model.body).items()}
