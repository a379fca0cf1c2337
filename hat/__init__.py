"""Hard attention to the task: networks that learn one task after another and forget nothing.

After Serrà, Surís, Miron and Karatzoglou, "Overcoming catastrophic forgetting with hard attention to the task",
ICML 2018.
"""

from hat import checkpoint, data, metrics, models, optim
from hat.exporting.api import TaskNetwork, TasksNetwork, export
from hat.exporting.errors import ExportError
from hat.layers.convolutions import HATConv1d, HATConv2d, HATConv3d
from hat.layers.embedding import HATEmbedding
from hat.layers.gated import HATLinear
from hat.layers.norms import HATBatchNorm1d, HATBatchNorm2d, HATBatchNorm3d, HATGroupNorm, HATLayerNorm, HATRMSNorm
from hat.life.converting import convert
from hat.life.forgetting import forget
from hat.life.model import HATModel, TaskParameters
from hat.optim.guard import guard
from hat.plots.report import Report, TaskUnits, report
from hat.reports.forecast import AxisForecast, Forecast, forecast
from hat.reports.kept import WeightsKept, weights_kept
from hat.reports.summary import AxisSummary, Summary, summary
from hat.resizing.grow import grow
from hat.steps.step import NonFiniteLossError, StepLoss, TrainStep
from hat.tracing.errors import ConversionError
from hat.training import TrainConfig, Trainer, TrainResult
from hat.units.gate import Along, Gate
from hat.units.per_task import PerTask, PerTaskParameter
from hat.units.state import GateConfig
from hat.verification.verify import ForgettingError, Probes, Verification, verify
from hat.warnings import (
    CapacityWarning,
    DriftWarning,
    GraphWarning,
    NonFiniteWarning,
    TrainingOnlyWarning,
    UnguardedWarning,
    UnlockedWarning,
    UntrainedWarning,
)

__version__ = "0.1.0"

__all__ = [
    "Along",
    "AxisForecast",
    "AxisSummary",
    "CapacityWarning",
    "ConversionError",
    "DriftWarning",
    "ExportError",
    "Forecast",
    "ForgettingError",
    "Gate",
    "GateConfig",
    "GraphWarning",
    "HATBatchNorm1d",
    "HATBatchNorm2d",
    "HATBatchNorm3d",
    "HATConv1d",
    "HATConv2d",
    "HATConv3d",
    "HATEmbedding",
    "HATGroupNorm",
    "HATLayerNorm",
    "HATLinear",
    "HATModel",
    "HATRMSNorm",
    "NonFiniteLossError",
    "NonFiniteWarning",
    "PerTask",
    "PerTaskParameter",
    "Probes",
    "Report",
    "StepLoss",
    "Summary",
    "TaskNetwork",
    "TaskParameters",
    "TaskUnits",
    "TasksNetwork",
    "TrainConfig",
    "TrainResult",
    "TrainStep",
    "Trainer",
    "TrainingOnlyWarning",
    "UnguardedWarning",
    "UnlockedWarning",
    "UntrainedWarning",
    "Verification",
    "WeightsKept",
    "checkpoint",
    "convert",
    "data",
    "export",
    "forecast",
    "forget",
    "grow",
    "guard",
    "metrics",
    "models",
    "optim",
    "report",
    "summary",
    "verify",
    "weights_kept",
]
