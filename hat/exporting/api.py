"""`hat.export`: the small network inside the big one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hat.conversion.body import Converted
from hat.exporting.errors import ExportError
from hat.exporting.modules import Exporter
from hat.exporting.plain import attention
from hat.life.model import HATModel
from hat.network.tolerance import LAYERS, difference
from hat.resizing.fitting import UnexplainedError
from hat.resizing.shrink import shrunk


class TaskNetwork(nn.Module):
    """What one task has learned, as a plain network.

    Attributes:
        body, head: the two parts.
        task: which one, by its id in the model.
        classes: the names of its classes.
        units: how many are left of every gate of the model, by its name.
    """

    def __init__(
        self, body: nn.Module, head: nn.Module, *, task: int, classes: Sequence[str], units: dict[str, int]
    ) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.task, self.classes, self.units = task, tuple(classes), units

    def forward(self, x: Any, *others: Any) -> Tensor:
        """What the network takes, to the logits [B, classes]."""
        logits: Tensor = self.head(self.body(x, *others))
        return logits


class TasksNetwork(nn.Module):
    """What some tasks have learned, as a plain network that is told which of them is meant.

    Attributes:
        body: of all of them.
        heads: by the id of the task, as a string.
        classes: the names of the classes, by the id of the task.
        units: how many are left of every gate of the model, by its name.
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
        self.body, self.classes, self.units = body, classes, units
        self.heads = nn.ModuleDict({str(task): head for task, head in heads.items()})
        self.__dict__["chosen"] = chosen

    @property
    def tasks(self) -> tuple[int, ...]:
        """The ids of the tasks."""
        return tuple(self.classes)

    def forward(self, x: Any, *others: Any, task: int) -> Tensor:
        """What the network takes, to the logits [B, classes] of a task.

        Raises:
            ValueError: the network was not exported for this task.
        """
        for row, known in enumerate(self.classes):  # compared, so that a compiler takes it for a constant
            if task == known:
                self.__dict__["chosen"].row = row
                logits: Tensor = self.heads[str(known)](self.body(x, *others))
                return logits
        raise ValueError(f"task: expected one of {self.tasks}, got {task!r}")


def export(
    model: HATModel, task: int | None = None, *, tasks: Sequence[int] | None = None, example_input: Any = None
) -> nn.Module:
    """A plain network that computes what a task has learned, without gates and without the units that it does not use.

    Its logits are those of `model(x, task=task)` to float32 rounding. It is made of `torch.nn` modules or a graph of
    them: `torch.export`, `torch.compile`, ONNX and safetensors take it, and it can be trained on. Where a network takes
    units apart evenly, as heads of attention, every part keeps as many as the fullest, those that are not used switched
    off; where it computes something of how many there are, all stay.

    Args:
        model: between tasks or while it learns one; it is left as it is.
        task: a finished one.
        tasks: instead of `task`, several finished ones: the network has the units of all of them, and is told which
            task is meant: `network(x, task=3)`.
        example_input: a tensor or a tuple of them, what the body takes: nobody knows but by trying whether the result
            computes the same. A converted body has one; one that is wired by hand needs this.

    Returns:
        A `TaskNetwork`, or with `tasks` a `TasksNetwork`, in evaluation mode, on the device of the model.

    Raises:
        ExportError: nobody knows what a module computes for one task, or the result computes something else.
        TypeError: `model` is not a `HATModel`, `tasks` is no sequence, or a task is not an int.
        ValueError: neither or both of `task` and `tasks`; there is no such finished task; or no example where one is
            needed.
    """
    wanted = _wanted(model, task, tasks)
    example = _example(model, example_input)
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(list(devices)):  # what is drawn on the way shows nowhere
        return _exported(model, wanted, example, one=task is not None)


def _exported(model: HATModel, wanted: list[int], example: tuple[Any, ...], *, one: bool) -> nn.Module:
    try:
        small = shrunk(model, wanted)
    except UnexplainedError as error:
        raise ExportError(str(error)) from None
    exporter = Exporter(small.state, wanted)
    body = _body(small.body, exporter)
    heads = {each: exporter.head(small.heads[each]) for each in wanted}
    classes = {each: model.classes[each] for each in wanted}
    units = {name: gate.units for name, gate in small.gates.items()}
    network: nn.Module
    if one:
        (task,) = wanted
        network = TaskNetwork(body, heads[task], task=task, classes=classes[task], units=units)
    else:
        network = TasksNetwork(body, heads, classes=classes, units=units, chosen=exporter.chosen)
    network.eval()
    for each in wanted:
        _check_same(model, network, example, each, {} if one else {"task": each})
    return network


def _wanted(model: Any, task: Any, tasks: Any) -> list[int]:
    if not isinstance(model, HATModel):
        raise TypeError(f"model: expected a hat.HATModel, got {type(model).__name__}")
    if (task is None) == (tasks is None):
        raise ValueError("task: expected either a task or `tasks`, got " + ("neither" if task is None else "both"))
    if task is None and not isinstance(tasks, Sequence):
        raise TypeError(f"tasks: expected a sequence of ints, got {type(tasks).__name__}")
    found = [task] if task is not None else list(tasks)
    for each in found:
        if isinstance(each, bool) or not isinstance(each, int):
            raise TypeError(f"task: expected an int, got {type(each).__name__}")
    if not found or len(set(found)) < len(found):
        raise ValueError(f"tasks: expected at least one, each once, got {found}")
    model.check_finished(found)
    return found


def _example(model: HATModel, example_input: Any) -> tuple[Any, ...]:
    if example_input is not None:
        return example_input if isinstance(example_input, tuple) else (example_input,)
    if not isinstance(model.body, Converted):
        raise ValueError("example_input: expected a tensor or a tuple of them, as the body is not converted, got None")
    return model.body.inputs()


def _body(body: nn.Module, exporter: Exporter) -> nn.Module:
    if isinstance(body, Converted):
        return _graph(body.network, exporter)
    return exporter.plain(body)


def _graph(network: fx.GraphModule, exporter: Exporter) -> fx.GraphModule:
    """The same graph, of plain modules; those that do nothing are left out."""
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
            found: Any = network
            for part in str(node.target).split("."):
                found = getattr(found, part)
            parameter = isinstance(found, nn.Parameter)
            _put(root, str(node.target), exporter.parameter(found) if parameter else found.detach().clone())
        values[node] = graph.node_copy(node, lambda each: values[each])
        if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
            values[node].target = attention
            values[node].meta["is_wrapped"] = True  # a graph that is unpickled is traced anew, but not its inside
    made_of = fx.GraphModule(root, graph, class_name="TaskBody")
    made_of.graph.eliminate_dead_code()
    made_of.recompile()
    return made_of


def _put(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Under the path that it had."""
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
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        expected = model(example if len(example) > 1 else example[0], task=task)
    finally:
        for module, mode in training.items():
            module.training = mode
    try:
        got = network(*example, **options)
    except Exception as error:
        raise ExportError(f"task {task}: the exported network fails on the example: {error}") from error
    change = difference(got, expected, LAYERS)
    if change:
        raise ExportError(
            f"task {task}: the exported network differs by {change:g} on the example, more than rounding; units stay "
            "whose gate is not `complete`"
        )
