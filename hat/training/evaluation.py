"""Evaluate one task on one part of its data: loss, accuracy and logits."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.arguments import check_type
from hat.data import Part
from hat.data.part import placed
from hat.life.model import HATModel
from hat.network.tolerance import largest_change
from hat.steps.graphs import Graphs, kind_of
from hat.steps.structure import Structure
from hat.tracing.untouched import evaluating
from hat.training.config import TrainConfig
from hat_kernels.dispatch import free_to_read


@dataclass(frozen=True)
class Evaluation:
    """How well a model solves a task on a part of the data.

    Attributes:
        loss: mean cross entropy.
        accuracy: in [0, 1].
        logits: [N, classes] on the CPU.
    """

    loss: float
    accuracy: float
    logits: Tensor

    def drift_from(self, earlier: Tensor) -> float:
        """The largest absolute change of any logit; exactly 0.0 only if all logits are equal.

        Args:
            earlier: [N, classes], the logits of an earlier evaluation.

        Raises:
            TypeError: `earlier` is no tensor.
            ValueError: `earlier` has another shape.
        """
        check_type("earlier", earlier, Tensor, "a tensor")
        if earlier.shape != self.logits.shape:
            raise ValueError(f"earlier: expected {tuple(self.logits.shape)}, got {tuple(earlier.shape)}")
        return largest_change(self.logits, earlier)


class Answers:
    """Computes the logits of one task; on a GPU as a graph, which is recorded again when the model has changed.

    Args:
        model: on the device that `config` names.
        task: a finished task, or the task that is being learned.
        config: gives the dtype of autocast, and says whether to record graphs.
    """

    def __init__(self, model: HATModel, task: int, config: TrainConfig) -> None:
        self.model, self.task, self.config = model, task, config
        self.structure = Structure(model)
        self.graphs = Graphs(self._answer, name="evaluation", warm=1)

    def __call__(self, x: Tensor, *, graph: bool) -> Tensor:
        """The logits [B, classes] of a batch, float32. `graph` asks for a graph, which is used if it is possible."""
        if not graph or not self.config.graph or free_to_read(x):
            return self._answer(x)
        if self.structure.has_changed():
            self.graphs.clear()
        return self.graphs(kind_of(x), x)

    def _answer(self, x: Tensor) -> Tensor:
        with self.config.autocast():
            logits: Tensor = self.model(x, task=self.task)
        return logits.float()


@torch.inference_mode()
def evaluate(
    model: HATModel, part: Part, task: int, config: TrainConfig, *, answers: Answers | None = None
) -> Evaluation:
    """Evaluate one task in evaluation mode. Afterwards the model is in the mode that it was in before.

    Args:
        model: on the device that `config` names.
        part: images and labels of the task, taken in order, in batches of `config.eval_batch_size`.
        task: a finished task, or the task that is being learned.
        config: gives batch size, dtype and device.
        answers: the `Answers` of this model and task, to use their graph again in the next evaluation. None: no graph
            is kept.

    Raises:
        TypeError: an argument is of another class.
        ValueError: the part is empty or has labels that the task has not, there is no such task, or `answers` are those
            of another model or task.
    """
    check_type("model", model, HATModel, "a HATModel")
    check_type("part", part, Part, "a hat.data.Part")
    check_type("config", config, TrainConfig, "a TrainConfig")
    check_type("answers", answers, (Answers, NoneType), "the Answers of this model and task, or None")
    model.check_task(task)
    if answers is not None and (answers.model is not model or answers.task != task):
        raise ValueError(f"answers: expected those of this model and task {task}, got others, of task {answers.task}")
    if not len(part):
        raise ValueError("part: expected at least one image, got none")
    device = config.torch_device()
    graph = answers is not None or len(part) >= _FEWEST * config.eval_batch_size
    answer = answers or Answers(model, task, config)
    with evaluating(model):
        batches = placed(part, device).batches(batch_size=config.eval_batch_size)
        logits = torch.cat([answer(x.to(device), graph=graph) for x, _ in batches]).cpu()
    labels = part.y.cpu()
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        got = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"part: expected labels below {logits.shape[1]}, the classes of task {task}, got {got}")
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy, logits)


_FEWEST = 4  # batches that pay for a graph: the first runs without, and to record costs about as much as one more batch
