"""The training loop: a model learns a stream of tasks and forgets none of them."""

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
