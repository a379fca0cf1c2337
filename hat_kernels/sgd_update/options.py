"""The options of a step of SGD, as one value."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hat_kernels.check import LARGEST, check_at_least_0, check_number, check_rate, check_scalar, check_switches


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

    def check(self, device: torch.device) -> None:
        """Check the options for parameters on a device.

        Raises:
            ValueError: a number is out of range, a switch is not a bool, or a scalar is on another device.
            TypeError: a scalar is not a dense floating tensor.
        """
        if not isinstance(self.lr, float) or not 0 <= self.lr <= LARGEST:
            check_rate(self.lr, device)
        check_at_least_0(momentum=self.momentum, weight_decay=self.weight_decay)
        if not isinstance(self.dampening, float) or not -math.inf < self.dampening < math.inf:
            check_number("dampening", self.dampening)
        check_switches(nesterov=self.nesterov, maximize=self.maximize, is_first_step=self.is_first_step, mend=self.mend)
        if self.grad_scale is not None or self.found_inf is not None:
            check_scalar("grad_scale", self.grad_scale, device)
            check_scalar("found_inf", self.found_inf, device)
