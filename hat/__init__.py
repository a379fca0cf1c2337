"""Hard attention to the task: networks that learn one task after another and forget nothing.

After Serrà, Surís, Miron and Karatzoglou, "Overcoming catastrophic forgetting with hard attention to the task",
ICML 2018.
"""

from hat import checkpoint, data, metrics, models, optim
from hat.attention import HATMultiheadAttention
from hat.chain import chain
from hat.conversion.api import convert
from hat.conversion.errors import ConversionError
from hat.convolutions import HATConv1d, HATConv2d, HATConv3d
from hat.embedding import HATEmbedding
from hat.exporting.api import TaskNetwork, TasksNetwork, export
from hat.exporting.errors import ExportError
from hat.feed_forward import FeedForward, SwiGLU
from hat.forecast import AxisForecast, Forecast, forecast
from hat.forgetting import forget
from hat.gate import Along, Gate
from hat.guard import guard
from hat.kept import WeightsKept, weights_kept
from hat.layers import HATLinear
from hat.model import HATModel, TaskParameters
from hat.norms import HATBatchNorm1d, HATBatchNorm2d, HATBatchNorm3d, HATGroupNorm, HATLayerNorm, HATRMSNorm
from hat.patches import PatchEmbedding
from hat.per_task import PerTask, PerTaskParameter
from hat.report import Report, TaskUnits, report
from hat.resizing.grow import grow
from hat.squeeze_excitation import SqueezeExcitation
from hat.state import GateConfig
from hat.step import NonFiniteLossError, StepLoss, TrainStep
from hat.stochastic_depth import StochasticDepth
from hat.summary import AxisSummary, Summary, summary
from hat.tables import ClassToken, PositionalTable
from hat.training import TrainConfig, Trainer, TrainResult
from hat.verify import ForgettingError, Probes, Verification, verify
from hat.warnings import CapacityWarning, GraphWarning, NonFiniteWarning, UnlockedWarning

__version__ = "0.1.0"

__all__ = [
    "Along",
    "AxisForecast",
    "AxisSummary",
    "CapacityWarning",
    "ClassToken",
    "ConversionError",
    "ExportError",
    "FeedForward",
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
    "HATMultiheadAttention",
    "HATRMSNorm",
    "NonFiniteLossError",
    "NonFiniteWarning",
    "PatchEmbedding",
    "PerTask",
    "PerTaskParameter",
    "PositionalTable",
    "Probes",
    "Report",
    "SqueezeExcitation",
    "StepLoss",
    "StochasticDepth",
    "Summary",
    "SwiGLU",
    "TaskNetwork",
    "TaskParameters",
    "TaskUnits",
    "TasksNetwork",
    "TrainConfig",
    "TrainResult",
    "TrainStep",
    "Trainer",
    "UnlockedWarning",
    "Verification",
    "WeightsKept",
    "chain",
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
