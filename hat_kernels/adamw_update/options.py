"""The options of a step of Adam or AdamW, as one value."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AdamWOptions(NamedTuple):
    """The options of `hat_kernels.adamw_update_`; see there."""

    lr: float | Tensor
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool
    amsgrad: bool
    maximize: bool
    grad_scale: Tensor | None
    found_inf: Tensor | None
    mend: bool
