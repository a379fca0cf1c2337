"""Operations of hard attention to the task: tensors in, tensors out.

Every operation is a folder. `api.py` is the contract: it validates the arguments and chooses an implementation.
`reference.py` is the specification in pure PyTorch. `triton.py`, where there is one, launches the Triton kernels.
No file here knows of tasks, modules or training.
"""

from hat_kernels.activation import ACTIVATIONS
from hat_kernels.adamw_update.api import adamw_update_
from hat_kernels.dispatch import backend
from hat_kernels.dropout.api import dropout
from hat_kernels.embedding_update.api import embedding_update_
from hat_kernels.folded_weight.api import folded_weight
from hat_kernels.gate.api import gate
from hat_kernels.gate.form import GateForm
from hat_kernels.gated_activation.api import gated_activation
from hat_kernels.gated_linear.api import gated_linear
from hat_kernels.gradient_norm.api import clip_factor, gradient_norm
from hat_kernels.limits import GATE_FLOOR
from hat_kernels.linear_update.api import linear_update_
from hat_kernels.lock import Lock
from hat_kernels.lock_gradient.api import lock_gradient_
from hat_kernels.lock_update.api import lock_update_
from hat_kernels.locked_conv.api import locked_conv
from hat_kernels.locked_linear.api import locked_linear
from hat_kernels.penalty.api import penalty
from hat_kernels.sgd_update.api import sgd_update_

__all__ = [
    "ACTIVATIONS",
    "GATE_FLOOR",
    "GateForm",
    "Lock",
    "adamw_update_",
    "backend",
    "clip_factor",
    "dropout",
    "embedding_update_",
    "folded_weight",
    "gate",
    "gated_activation",
    "gated_linear",
    "gradient_norm",
    "linear_update_",
    "lock_gradient_",
    "lock_update_",
    "locked_conv",
    "locked_linear",
    "penalty",
    "sgd_update_",
]
