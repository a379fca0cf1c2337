"""The errors of lock_gradient_."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock


def test_lock_that_does_not_fit():
    grad = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"lock.rows: expected 3 units along dimension 0, got \(2,\)"):
        hat_kernels.lock_gradient_(grad, Lock(torch.zeros(2)))
    with pytest.raises(ValueError, match=r"lock.columns: expected 2 units along dimension 1, got \(3,\)"):
        hat_kernels.lock_gradient_(grad, Lock(columns=torch.zeros(3)))
    with pytest.raises(ValueError, match="lock: expected rows, columns or both, got neither"):
        hat_kernels.lock_gradient_(grad, Lock())
    assert torch.equal(grad, torch.ones(3, 2))


def test_elements_that_share_memory():
    with pytest.raises(ValueError, match="grad: expected elements with memory of their own, got stride 0 along dim"):
        hat_kernels.lock_gradient_(torch.ones(1, 2).expand(3, 2), Lock(torch.zeros(3)))
