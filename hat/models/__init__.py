"""The networks of the HAT paper."""

from hat.models.alexnet import alexnet
from hat.models.mlp import mlp

__all__ = ["alexnet", "mlp"]
