"""The options of a step of Adam or AdamW, as one value."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hat_kernels.check import LARGEST, NUMBERS, check_at_least_0, check_rate, check_scalar, check_switches, got


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

    def check(self, device: torch.device) -> None:
        """Check the options for parameters on a device.

        Raises:
            ValueError: a number is out of range, a switch is not a bool, or a scalar is on another device.
            TypeError: a scalar is not a dense floating tensor.
        """
        if not isinstance(self.lr, float) or not 0 <= self.lr <= LARGEST:
            check_rate(self.lr, device)
        check_at_least_0(eps=self.eps, weight_decay=self.weight_decay)
        check_betas(self.betas)
        check_switches(decoupled=self.decoupled, amsgrad=self.amsgrad, maximize=self.maximize, mend=self.mend)
        if self.grad_scale is not None or self.found_inf is not None:
            check_scalar("grad_scale", self.grad_scale, device)
            check_scalar("found_inf", self.found_inf, device)


def check_betas(betas: tuple[float, float]) -> None:
    """Check the decay of the two moments.

    Raises:
        ValueError: `betas` is not two numbers in [0, 1).
    """
    if not isinstance(betas, (list, tuple)) or len(betas) != 2:
        raise ValueError(f"betas: expected two in [0, 1), got {got(betas)}")
    for beta in betas:
        if not isinstance(beta, NUMBERS) or isinstance(beta, bool) or not 0 <= beta < 1:
            raise ValueError(f"betas: expected two in [0, 1), got {got(betas)}")
