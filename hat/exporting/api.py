"""`hat.export`: the part of a network that one task uses, as a small plain network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hat.arguments import check_arguments, got
from hat.conversion.body import Converted
from hat.exporting.errors import ExportError
from hat.exporting.modules import Exporter
from hat.exporting.plain import attention
from hat.life.model import HATModel
from hat.network.tolerance import LAYERS, difference
from hat.resizing.fitting import UnexplainedError
from hat.resizing.shrink import shrunk
from hat.tracing.checks import other_inputs
from hat.tracing.graph_module import GraphModule, loads_as_code
from hat.tracing.trees import tensors as tensors_in
from hat.tracing.untouched import evaluating


class TaskNetwork(nn.Module):
    """A plain network that computes what one task has learned.

    Attributes:
        body: the body, which maps inputs to features.
        head: the head of the task.
        task: the id of the task in the model.
        classes: the names of the task's classes.
        units: for every gate of the model by name, the number of units that are left.
    """

    def __init__(
        self, body: nn.Module, head: nn.Module, *, task: int, classes: Sequence[str], units: dict[str, int]
    ) -> None:
        super().__init__()
        check_arguments(TaskNetwork, locals())
        self.body, self.head = body, head
        self.task, self.classes, self.units = task, tuple(classes), units

    def forward(self, x: Any, *more_inputs: Any) -> Tensor:
        """The inputs of the body to the logits [B, ..., classes]."""
        logits: Tensor = self.head(self.body(x, *more_inputs))
        return logits


class TasksNetwork(nn.Module):
    """A plain network that computes what several tasks have learned. A call says which task is meant.

    Attributes:
        body: the body, which all tasks share.
        heads: the head of every task, by the id of the task as a string.
        classes: the names of the classes, by the id of the task.
        units: for every gate of the model by name, the number of units that are left.
    """

    def __init__(
        self,
        body: nn.Module,
        heads: Mapping[int, nn.Module],
        *,
        classes: dict[int, tuple[str, ...]],
        units: dict[str, int],
        chosen: Any,
    ) -> None:
        super().__init__()
        check_arguments(TasksNetwork, locals())
        self.body, self.classes, self.units = body, classes, units
        self.heads = nn.ModuleDict({str(task): head for task, head in heads.items()})
        self.__dict__["chosen"] = chosen

    @property
    def tasks(self) -> tuple[int, ...]:
        """The ids of the tasks."""
        return tuple(self.classes)

    def forward(self, x: Any, *more_inputs: Any, task: int) -> Tensor:
        """The inputs of the body to the logits [B, ..., classes] of a task.

        Raises:
            TypeError: `task` is not an int.
            ValueError: the network was not exported for this task.
        """
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"task: expected one of {self.tasks}, got {got(task)}")
        for row, exported_task in enumerate(self.classes):  # a loop, so that a compiler takes the task for a constant
            if task == exported_task:
                self.__dict__["chosen"].row = row
                logits: Tensor = self.heads[str(exported_task)](self.body(x, *more_inputs))
                return logits
        raise ValueError(f"task: expected one of {self.tasks}, got {got(task)}")


def export(
    model: HATModel, task: int | None = None, *, tasks: Sequence[int] | None = None, example_input: Any = None
) -> nn.Module:
    """A plain network that computes what a task has learned, without gates and without units that it does not use.

    The logits are equal to `model(x, task=task)` up to float32 rounding. The network is made of `torch.nn` modules, or
    of a graph of such modules. `torch.export`, `torch.compile`, ONNX and safetensors accept the network, and it can be
    trained further.

    Units that the task does not use are removed, with two exceptions. If the network splits units into equal parts, as
    heads of attention, every part keeps as many units as the part with the most used units; the unused ones among them
    are switched off. If the network computes something from the number of units, all units stay.

    Args:
        model: the model, between tasks or while it learns a task; it is not changed.
        task: the id of a finished task.
        tasks: instead of `task`, the ids of several finished tasks. The network then has the units of all these tasks,
            and every call names the task: `network(x, task=3)`.
        example_input: an input of the body, a tensor or a tuple of tensors. The exported network is tried on this
            input. A converted body has an example; a body that is wired by hand needs this argument.

    Returns:
        A `TaskNetwork`, or with `tasks` a `TasksNetwork`, in evaluation mode, on the device of the model.

    Raises:
        ExportError: nobody knows what a module computes for one task, or the exported network computes something else.
        TypeError: `model` is not a `HATModel`, `tasks` is no sequence, or a task is not an int.
        ValueError: neither or both of `task` and `tasks` are given; there is no such finished task; or an example is
            needed and not given.
    """
    task_ids = _task_ids(model, task, tasks)
    example = _example(model, example_input)
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(list(devices)):  # an export does not change the user's random numbers
        return _exported(model, task_ids, example, single=task is not None)


def _exported(model: HATModel, task_ids: list[int], example: tuple[Any, ...], *, single: bool) -> nn.Module:
    try:
        small = shrunk(model, task_ids)
    except UnexplainedError as error:
        raise ExportError(str(error)) from None
    exporter = Exporter(small.state, task_ids)
    body = _body(small.body, exporter)
    heads = {task: exporter.head(small.heads[task]) for task in task_ids}
    classes = {task: model.classes[task] for task in task_ids}
    units = {name: gate.units for name, gate in small.gates.items()}
    network: nn.Module
    if single:
        (task,) = task_ids
        network = TaskNetwork(body, heads[task], task=task, classes=classes[task], units=units)
    else:
        network = TasksNetwork(body, heads, classes=classes, units=units, chosen=exporter.chosen)
    network.eval()
    for task in task_ids:
        _check_same(model, network, example, task, {} if single else {"task": task})
    return network


def _task_ids(model: Any, task: Any, tasks: Any) -> list[int]:
    check_arguments(export, {"model": model})
    if (task is None) == (tasks is None):
        raise ValueError("task: expected either a task or `tasks`, got " + ("neither" if task is None else "both"))
    if task is None and (not isinstance(tasks, Sequence) or isinstance(tasks, str | bytes)):
        raise TypeError(f"tasks: expected a sequence of ints, got {type(tasks).__name__}")
    task_ids = [task] if task is not None else list(tasks)
    model.check_finished(task_ids)
    if not task_ids or len(set(task_ids)) < len(task_ids):
        raise ValueError(f"tasks: expected at least one, each once, got {task_ids}")
    return task_ids


def _example(model: HATModel, example_input: Any) -> tuple[Any, ...]:
    if example_input is not None and next(tensors_in(example_input), None) is None:
        raise TypeError(f"example_input: expected a tensor or a tuple of tensors, got {got(example_input)}")
    if example_input is not None:
        return example_input if isinstance(example_input, tuple) else (example_input,)
    if not isinstance(model.body, Converted):
        raise ValueError("example_input: expected a tensor or a tuple, because the body is not converted, got None")
    return model.body.inputs()


def _body(body: nn.Module, exporter: Exporter) -> nn.Module:
    if isinstance(body, Converted):
        return _graph(body.network, exporter)
    return exporter.plain(body)


def _graph(network: fx.GraphModule, exporter: Exporter) -> fx.GraphModule:
    """The same graph with plain modules. Modules that do nothing are left out."""
    root = nn.Module()
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            made = exporter.plain(network.get_submodule(str(node.target)))
            if isinstance(made, nn.Identity):
                values[node] = values[node.all_input_nodes[0]]
                continue
            _put(root, str(node.target), made)
        elif node.op == "get_attr":
            tensor: Any = reduce(getattr, str(node.target).split("."), network)
            is_parameter = isinstance(tensor, nn.Parameter)
            _put(root, str(node.target), exporter.parameter(tensor) if is_parameter else tensor.detach().clone())
        values[node] = graph.node_copy(node, lambda source: values[source])
        if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
            values[node].target = attention
            values[node].meta["is_wrapped"] = True  # unpickling traces the graph again, but not into `attention`
    # Code can be loaded without this library, nodes cannot.
    make = fx.GraphModule if loads_as_code(root, graph) else GraphModule
    plain_graph = make(root, graph, class_name="TaskBody")
    plain_graph.graph.eliminate_dead_code()
    plain_graph.recompile()
    return plain_graph


def _put(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Put a module or tensor under a dotted path of `root`."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    else:
        root.register_buffer(name, value)


@torch.no_grad()
def _check_same(
    model: HATModel, network: nn.Module, example: tuple[Any, ...], task: int, options: dict[str, int]
) -> None:
    """Check that an exported network computes what the model computes for a task, to rounding.

    The removal of units has been tried node by node on weights and inputs that are all different (`shrunk`). What is
    left to show is that layers without gates compute what the gated layers computed, with the weights that will be
    used. The example shows it, and other values in a larger batch, for an example may be all zeros. No value is drawn.

    Raises:
        ExportError: the network fails on the example or differs.
    """
    for inputs in (example, other_inputs(example, 1)):
        try:
            with evaluating(model):
                expected = model(inputs if len(inputs) > 1 else inputs[0], task=task)
        except Exception:
            if inputs is example:
                raise
            continue  # the model does not take these values, or not this number of samples
        if inputs is not example and not expected.isfinite().all():
            continue
        try:
            got = network(*inputs, **options)
        except Exception as error:
            raise ExportError(f"task {task}: the exported network fails on the example: {error}") from error
        change = difference(got, expected, LAYERS)
        if change:
            raise ExportError(
                f"task {task}: the exported network differs by {change:g} on the example, more than rounding; units "
                "stay whose gate is not `complete`"
            )
