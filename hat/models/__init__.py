"""The networks of the HAT paper, residual networks and a vision transformer: plain networks that are converted."""

from hat.models.alexnet import alexnet
from hat.models.mlp import mlp
from hat.models.resnet import resnet18, resnet34, resnet50
from hat.models.vit import vit

__all__ = ["alexnet", "mlp", "resnet18", "resnet34", "resnet50", "vit"]
