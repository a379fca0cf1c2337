"""The options of a step of SGD, as one value."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SGDOptions(NamedTuple):
    """The options of `hat_kernels.sgd_update_`; see there.

    Attributes:
        limit: the bound of the clamp of `hat_kernels.embedding_update_`; None: the parameters are not clamped.
    """

    lr: float | Tensor
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False
    grad_scale: Tensor | None = None
    is_first_step: bool = False
    found_inf: Tensor | None = None
    mend: bool = False
    limit: float | None = None
