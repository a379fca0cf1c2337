"""The errors of gradient_norm."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock


def test_value():
    with pytest.raises(ValueError, match="grads: expected at least one gradient, got none"):
        hat_kernels.gradient_norm([], [])
    with pytest.raises(ValueError, match="locks: expected 1, one a parameter, got 0"):
        hat_kernels.gradient_norm([torch.ones(2)], [])
    with pytest.raises(ValueError, match=r"locks\[0\].rows: expected 2 units"):
        hat_kernels.gradient_norm([torch.ones(2)], [Lock(torch.ones(3))])
