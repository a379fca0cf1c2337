"""The training loop: a stream of tasks in, a model that has forgotten none of them out."""

from hat.training.config import TrainConfig
from hat.training.evaluation import Evaluation, evaluate
from hat.training.plain import PlainModel
from hat.training.references import REFERENCES, reference_accuracy
from hat.training.trainer import Trainer, TrainResult

__all__ = [
    "REFERENCES",
    "Evaluation",
    "PlainModel",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "evaluate",
    "reference_accuracy",
]
