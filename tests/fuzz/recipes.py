"""How to call every public callable with what it expects: an instance for a method, and a value for every argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import hat
import hat_kernels
from hat.units.change import Change
from hat.units.state import LEARNING, State
from tests.fuzz.callables import Target
from tests.fuzz.scene import Net, Scene

Maker = Callable[[Scene], Any]


def _weights(*_: Any) -> list[torch.Tensor]:
    return [torch.ones(4, 3), torch.ones(4)]


def _states(*_: Any) -> list[torch.Tensor]:
    return [torch.zeros(4, 3), torch.zeros(4)]


def _accuracy(*_: Any) -> list[list[float]]:
    return [[0.9, float("nan")], [0.8, 0.7]]


def _mask_per_task(*_: Any) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])


SELF: dict[str, Maker] = {
    "HATModel": lambda s: s.finished,
    "PlainModel": lambda s: s.plain,
    "Gate": lambda s: s.finished.body.first.gate,
    "HATLinear": lambda s: s.finished.body.first,
    "HATConv1d": lambda _: hat.HATConv1d(2, 3, 1),
    "HATConv2d": lambda _: hat.HATConv2d(2, 3, 1),
    "HATConv3d": lambda _: hat.HATConv3d(2, 3, 1),
    "HATEmbedding": lambda _: hat.HATEmbedding(5, 3),
    "HATBatchNorm1d": lambda _: hat.HATBatchNorm1d(4),
    "HATBatchNorm2d": lambda _: hat.HATBatchNorm2d(4),
    "HATBatchNorm3d": lambda _: hat.HATBatchNorm3d(4),
    "HATGroupNorm": lambda _: hat.HATGroupNorm(2, 4),
    "HATLayerNorm": lambda _: hat.HATLayerNorm(4),
    "HATRMSNorm": lambda _: hat.HATRMSNorm(4),
    "PerTask": lambda _: hat.PerTaskParameter(torch.ones(3)),
    "PerTaskParameter": lambda _: hat.PerTaskParameter(torch.ones(3)),
    "Probes": lambda s: s.probes,
    "Report": lambda s: s.report,
    "TaskNetwork": lambda s: hat.export(s.finished, task=1, example_input=s.x),
    "TasksNetwork": lambda s: hat.export(s.finished, tasks=(0, 1), example_input=s.x),
    "TrainConfig": lambda s: s.config,
    "TrainStep": lambda s: hat.TrainStep(s.learning, s.optimizer),
    "Trainer": lambda s: hat.Trainer(s.images, s.stream, s.config, progress=False),
    "Evaluation": lambda _: hat.training.Evaluation(0.5, 0.5, torch.ones(3, 4)),
    "SGD": lambda s: s.optimizer,
    "AdamW": lambda s: s.adamw,
    "Part": lambda s: s.part,
    "Task": lambda s: s.task,
    "Dataset": lambda _: hat.data.load("digits"),
    "GateForm": lambda _: hat_kernels.GateForm(mask=torch.ones(4)),
}
"""An instance for the methods of a class, by the name of the class."""

LEARNING_ONLY = {"end_task", "penalty", "task_parameters", "require_learning", "features_of", "anneal"}
"""Methods of a model that learns a task."""

ARGUMENTS: dict[str, Maker] = {
    "accuracy": _accuracy,
    "batch_size": lambda _: 2,
    "bias": lambda _: torch.zeros(4),
    "body": lambda _: Net(),
    "by": lambda _: 1,
    "channels": lambda _: 1,
    "classes": lambda _: 2,
    "config": lambda s: s.config,
    "dataset": lambda _: "digits",
    "datasets": lambda _: ["digits"],
    "device": lambda _: "cpu",
    "dim": lambda _: 0,
    "dilation": lambda _: (1, 1),
    "embedding": lambda _: torch.randn(4),
    "embeddings": lambda _: [torch.randn(4), torch.randn(3)],
    "example_input": lambda s: s.x,
    "exp_avg_sqs": _states,
    "exp_avgs": _states,
    "figure": lambda _: hat.plots.accuracy_matrix(_accuracy(), ["a", "b"]),
    "folder": lambda _: "report",
    "frees": lambda _: [torch.ones(4), torch.ones(3)],
    "frozen": lambda _: (0, 0),
    "gate": lambda _: hat_kernels.GateForm(mask=torch.ones(4)),
    "grads": _weights,
    "images": lambda _: torch.randn(6, 1, 2, 2),
    "in_channels": lambda _: 2,
    "in_features": lambda _: 4,
    "input_shape": lambda _: (3, 8, 8),
    "inputs": lambda s: s.x,
    "joint": lambda _: [0.9, 0.9],
    "kernel_size": lambda _: 1,
    "kind": lambda _: "alone",
    "labels": lambda _: torch.tensor([0, 1, 0, 1, 0, 1]),
    "layers": lambda _: ["a", "b", "c"],
    "learned": lambda _: [0.9, 0.8],
    "lock": lambda _: hat_kernels.Lock(rows=torch.tensor([1.0, 0, 0, 1])),
    "locks": lambda _: [hat_kernels.Lock(rows=torch.tensor([1.0, 0, 0, 1])), None],
    "lr": lambda _: 0.1,
    "make_model": lambda s: lambda: hat.training.PlainModel(hat.models.mlp(4, hidden=(3,))),
    "masks": lambda _: [_mask_per_task(), _mask_per_task()],
    "max_exp_avg_sqs": lambda _: [],
    "max_norm": lambda _: 1.0,
    "model": lambda s: s.finished,
    "module": lambda _: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
    "momentum_buffers": _states,
    "name": lambda _: "weight",
    "names": lambda _: ["a", "b"],
    "now": lambda _: [0.9, 0.8],
    "optimizer": lambda s: s.optimizer,
    "out_channels": lambda _: 3,
    "out_features": lambda _: 5,
    "padding": lambda _: (0, 0),
    "parameters": _weights,
    "part": lambda s: s.part,
    "path": lambda _: "file.hat",
    "payload": lambda _: {"a": torch.ones(2), "b": [1, "text"]},
    "permutation": lambda _: torch.tensor([3, 2, 1, 0]),
    "plain": lambda _: nn.Linear(4, 5),
    "probability": lambda _: 0.5,
    "progress": lambda _: 0.5,
    "random": lambda _: [0.5, 0.5],
    "repeat": lambda _: 1,
    "scale": lambda _: torch.tensor(1.0),
    "state": lambda _: State(),
    "steps": lambda _: [torch.tensor(1.0), torch.tensor(1.0)],
    "stream": lambda s: s.stream,
    "stride": lambda _: (1, 1),
    "task": lambda _: 1,
    "tasks": lambda s: [s.task],
    "tokens": lambda _: torch.tensor([[0, 1], [2, 0]]),
    "units": lambda _: 4,
    "used": lambda _: [[0.5, 0.1, 0.2], [0.6, 0.2, 0.2]],
    "value": lambda _: None,
    "values": lambda _: torch.randn(4),
    "weight": lambda _: torch.randn(4, 3),
    "x": lambda s: s.x,
}
"""A value for an argument, by the name of the argument."""

SPECIAL: dict[str, Maker] = {
    "hat.Gate.attach.module": lambda _: nn.Linear(3, 5),
    "hat.Gate.forward.x": lambda _: torch.randn(3, 5),
    "hat.Gate.rearrange.change": lambda _: Change.of_order(0, torch.arange(5)[None]),
    "hat.Gate.replace.member": lambda s: s.finished.body.first.gate.members[0],
    "hat.Gate.replace.by": lambda s: s.finished.body.first.gate.members[0],
    "hat.Gate.reads.module": lambda s: s.finished.body.second,
    "hat.HATBatchNorm1d.shape": lambda _: 4,
    "hat.HATBatchNorm2d.shape": lambda _: 4,
    "hat.HATBatchNorm3d.shape": lambda _: 4,
    "hat.HATGroupNorm.shape": lambda _: (2, 4),
    "hat.HATLayerNorm.shape": lambda _: 4,
    "hat.HATRMSNorm.shape": lambda _: 4,
    "hat.HATBatchNorm1d.connect.gate": lambda _: hat.Gate(4),
    "hat.HATBatchNorm1d.of_task.name": lambda _: "weight",
    "hat.HATBatchNorm1d.moved.name": lambda _: "weight",
    "hat.HATBatchNorm1d.from_plain.norm": lambda _: nn.BatchNorm1d(4),
    "hat.HATBatchNorm2d.from_plain.norm": lambda _: nn.BatchNorm2d(4),
    "hat.HATBatchNorm3d.from_plain.norm": lambda _: nn.BatchNorm3d(4),
    "hat.HATGroupNorm.from_plain.norm": lambda _: nn.GroupNorm(2, 4),
    "hat.HATLayerNorm.from_plain.norm": lambda _: nn.LayerNorm(4),
    "hat.HATRMSNorm.from_plain.norm": lambda _: nn.RMSNorm(4),
    "keep_count.before": lambda _: 4,
    "keep_count.now": lambda _: 4,
    "keep_count.tasks": lambda _: 0,
    "hat.HATConv1d.around.plain": lambda _: nn.Conv1d(2, 3, 1),
    "hat.HATConv2d.around.plain": lambda _: nn.Conv2d(2, 3, 1),
    "hat.HATConv3d.around.plain": lambda _: nn.Conv3d(2, 3, 1),
    "hat.HATConv1d.connect.inputs": lambda _: hat.Gate(2),
    "hat.HATConv1d.forward.x": lambda _: torch.randn(2, 2, 4),
    "hat.HATConv2d.forward.x": lambda _: torch.randn(2, 2, 4, 4),
    "hat.HATConv3d.forward.x": lambda _: torch.randn(2, 2, 4, 4, 4),
    "hat.HATEmbedding.num_embeddings": lambda _: 5,
    "hat.HATEmbedding.embedding_dim": lambda _: 3,
    "hat.HATLinear.connect.inputs": lambda _: hat.Gate(4),
    "hat.HATModel.forward.task": lambda _: 1,
    "hat.export.task": lambda _: 1,
    "hat.export.example_input": lambda s: s.x,
    "hat.weights_kept.task": lambda _: 1,
    "hat_kernels.folded_weight.gate": lambda _: hat_kernels.GateForm(torch.randn(4), torch.tensor(1.0)),
    "hat.models.alexnet.input_shape": lambda _: (3, 12, 12),
    "hat.plots.save.path": lambda _: "picture.png",
    "hat.training.evaluate.model": lambda s: s.of_images,
    "hat.HATModel.check_finished.tasks": lambda _: [0, 1],
    "hat.HATModel.features_of.answer": lambda _: LEARNING,
    "hat.HATModel.require_learning.what": lambda _: "this",
    "hat.HATModel.load_state_dict.state_dict": lambda s: Scene().finished.state_dict(),
    "hat.HATModel.set_extra_state.state": lambda s: s.finished.get_extra_state(),
    "hat.PerTask.of_task.name": lambda _: "values",
    "hat.PerTask.moved.name": lambda _: "values",
    "hat.TaskNetwork.body": lambda _: nn.Linear(4, 3),
    "hat.TaskNetwork.head": lambda _: nn.Linear(3, 2),
    "hat.TaskNetwork.classes": lambda _: ("a", "b"),
    "hat.TaskNetwork.units": lambda _: {"gate": 3},
    "hat.TasksNetwork.body": lambda _: nn.Linear(4, 3),
    "hat.TasksNetwork.heads": lambda _: {1: nn.Linear(3, 2)},
    "hat.TasksNetwork.classes": lambda _: {1: ("a", "b")},
    "hat.TasksNetwork.units": lambda _: {"gate": 3},
    "hat.TasksNetwork.chosen": lambda _: nn.Identity(),
    "hat.TaskParameters.parameters": lambda s: list(s.learning.body.parameters()),
    "hat.TrainStep.model": lambda s: s.learning,
    "hat.TrainStep.__call__.y": lambda _: torch.tensor([0, 1, 0]),
    "hat.Trainer.model": lambda s: s.images,
    "hat.TrainConfig.*": lambda _: 1,
    "hat.guard.optimizer": lambda s: torch.optim.SGD(s.learning.task_parameters(), lr=0.1),
    "hat.guard.model": lambda s: s.learning,
    "hat.verify.probes": lambda s: s.probes,
    "hat_kernels.GateForm.check.x": lambda _: torch.ones(3, 4),
    "hat_kernels.backend.name": lambda _: "reference",
    "hat_kernels.linear_update_.dz": lambda _: torch.randn(5, 4),
    "hat_kernels.linear_update_.x": lambda _: torch.randn(5, 3),
    "hat_kernels.gated_linear.x": lambda _: torch.randn(5, 3),
    "hat_kernels.locked_linear.x": lambda _: torch.randn(5, 3),
    "hat_kernels.locked_conv.x": lambda _: torch.randn(2, 3, 4, 4),
    "hat_kernels.locked_conv.weight": lambda _: torch.randn(4, 3, 1, 1),
    "hat_kernels.lock_gradient_.grad": lambda _: torch.randn(4, 3),
    "hat_kernels.lock_update_.parameter": lambda _: torch.randn(4, 3),
    "hat_kernels.lock_update_.before": lambda _: torch.randn(4, 3),
    "hat_kernels.embedding_update_.grads": lambda _: [torch.randn(4), torch.randn(3)],
    "hat_kernels.embedding_update_.momentum_buffers": lambda _: [],
    "hat_kernels.sgd_update_.momentum_buffers": lambda _: [],
    "hat.data.Dataset.name": lambda _: "small",
    "hat.data.Dataset.classes": lambda _: ("a", "b"),
    "hat.data.Dataset.x_train": lambda _: torch.zeros(6, 1, 2, 2, dtype=torch.uint8),
    "hat.data.Dataset.y_train": lambda _: torch.tensor([0, 1, 0, 1, 0, 1]),
    "hat.data.Dataset.x_test": lambda _: torch.zeros(6, 1, 2, 2, dtype=torch.uint8),
    "hat.data.Dataset.y_test": lambda _: torch.tensor([0, 1, 0, 1, 0, 1]),
    "hat.data.Part.channels": lambda _: 3,
    "hat.data.Stream.name": lambda _: "stream",
    "hat.data.Task.name": lambda _: "small",
    "hat.data.Task.classes": lambda _: ("a", "b"),
    "hat.data.Task.train": lambda s: s.part,
    "hat.data.Task.validation": lambda s: s.part,
    "hat.data.Task.test": lambda s: s.part,
    "hat.data.Task.epoch.epoch": lambda _: 0,
    "hat.optim.SGD.params": lambda s: s.learning.task_parameters(),
    "hat.optim.AdamW.params": lambda s: s.learning.task_parameters(),
    "add_param_group.param_group": lambda s: {"params": [nn.Parameter(torch.ones(2))]},
    "follow.changes": lambda _: {},
    "follow.before": lambda _: {},
    "follow.after": lambda _: {},
    "follow.like": lambda _: {},
    "forget.gone": lambda _: [],
    "hat.optim.SGD.load_state_dict.state_dict": lambda s: s.optimizer.state_dict(),
    "hat.optim.AdamW.load_state_dict.state_dict": lambda s: s.adamw.state_dict(),
    "hat.plots.capacity.layers": lambda _: ["a", "b", "c"],
    "hat.plots.channels.mask": _mask_per_task,
    "hat.plots.channels.layer": lambda _: "a",
    "hat.plots.compression.accuracy": lambda _: [[0.5, 0.6], [0.5, 0.7]],
    "hat.plots.compression.kept": lambda _: [[0.9, 0.6], [0.9, 0.7]],
    "hat.plots.overlap.masks_overlap": lambda _: [[1.0, 0.5], [0.5, 1.0]],
    "hat.plots.units.layers": lambda _: ["a", "b"],
    "hat.training.Evaluation.drift_from.earlier": lambda _: torch.zeros(3, 4),
    "hat.training.evaluate.task": lambda _: 0,
    "hat.training.evaluate.part": lambda s: s.part,
    "hat.checkpoint.load.path": lambda s: s.checkpoint,
    "hat.checkpoint.replacing.path": lambda _: "file.hat",
}
"""A value for an argument of one callable, or of a method of any class, if its name does not say enough."""


def instance(target: Target, scene: Scene) -> Any:
    """What a method or a property is called on."""
    if target.owner is None:
        return None
    if target.owner.__name__ == "HATModel" and target.attribute in LEARNING_ONLY:
        return scene.learning
    if target.name == "hat.HATModel.begin_task":
        return scene.finished
    return SELF[target.owner.__name__](scene)


def valid(target: Target, scene: Scene) -> dict[str, Any]:
    """Arguments that the callable accepts, by name: every argument without a default."""
    empty = (inspect.Parameter.empty, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in target.parameters.values() if p.default is empty[0] and p.kind not in empty[1:]]
    needed += [name for name in target.parameters if f"{target.name}.{name}" in SPECIAL and name not in needed]
    return {name: maker(target, name)(scene) for name in needed}


def maker(target: Target, argument: str) -> Maker:
    """Makes a value for an argument.

    Raises:
        LookupError: nobody has said how; add it to `ARGUMENTS` or `SPECIAL`.
    """
    keys = ((f"{target.name}.{argument}", SPECIAL), (f"{target.attribute}.{argument}", SPECIAL), (argument, ARGUMENTS))
    for key, makers in keys:
        if key in makers:
            return makers[key]
    raise LookupError(f"{target.name}: no valid value for the argument {argument!r}; see tests/fuzz/recipes.py")
