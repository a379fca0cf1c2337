"""Loss, accuracy and logits of one task on one part of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.data import Part
from hat.data.part import placed
from hat.graphs import Graphs, kind_of
from hat.model import HATModel
from hat.training.config import TrainConfig
from hat.verify import largest_change


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a part.

    Attributes:
        loss: mean cross entropy.
        accuracy: in [0, 1].
        logits: [N, classes] on the CPU.
    """

    loss: float
    accuracy: float
    logits: Tensor

    def drift_from(self, earlier: Tensor) -> float:
        """The largest absolute change of any logit; exactly 0.0 only if every one is equal.

        Args:
            earlier: [N, classes].

        Raises:
            ValueError: another shape.
        """
        if earlier.shape != self.logits.shape:
            raise ValueError(f"earlier: expected {tuple(self.logits.shape)}, got {tuple(earlier.shape)}")
        return largest_change(self.logits, earlier)


@torch.inference_mode()
def evaluate(model: HATModel, part: Part, task: int, config: TrainConfig) -> Evaluation:
    """Evaluate one task in evaluation mode; the model returns to the mode it was in.

    Args:
        model: on the device that `config` names.
        part: the images and labels of the task, in order, in batches of `config.eval_batch_size`.
        task: a finished task, or the one that is being learned.

    Raises:
        ValueError: the part is empty, or there is no such task.
    """
    if not len(part):
        raise ValueError("part: expected at least one image, got none")
    device = config.torch_device()
    was_training = model.training
    model.eval()
    try:
        answer = _answers(model, task, config, -(-len(part) // config.eval_batch_size))
        batches = placed(part, device).batches(batch_size=config.eval_batch_size)
        logits = torch.cat([answer(x.to(device)) for x, _ in batches]).cpu()
    finally:
        model.train(was_training)
    labels = part.y.cpu()
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy, logits)


def _answers(model: HATModel, task: int, config: TrainConfig, batches: int) -> Callable[[Tensor], Tensor]:
    """Gives the logits of a batch [B, classes] in float32; as a graph of the GPU where batches enough pay for it."""

    def answer(x: Tensor) -> Tensor:
        with config.autocast():
            logits: Tensor = model(x, task=task)
        return logits.float()

    if not config.graph or batches < _FEWEST or config.torch_device().type != "cuda":
        return answer
    graphs = Graphs(answer, what="evaluation", warm=1)
    return lambda x: graphs(kind_of(x), x)


_FEWEST = 4  # batches: the first runs as it is, and to record costs about as much as another
