"""The errors of lock_update_."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock


def test_shape_and_dtype_of_before():
    lock = Lock(torch.zeros(3))
    with pytest.raises(ValueError, match=r"before: expected \(3, 2\) torch.float32, got \(2, 3\) torch.float32"):
        hat_kernels.lock_update_(torch.ones(3, 2), torch.ones(2, 3), lock)
    with pytest.raises(ValueError, match=r"before: expected \(3, 2\) torch.float32, got \(3, 2\) torch.float64"):
        hat_kernels.lock_update_(torch.ones(3, 2), torch.ones(3, 2).double(), lock)


def test_lock_that_does_not_fit():
    with pytest.raises(ValueError, match=r"lock.rows: expected 3 units along dimension 0, got \(2,\)"):
        hat_kernels.lock_update_(torch.ones(3, 2), torch.ones(3, 2), Lock(torch.zeros(2)))


def test_elements_that_share_memory():
    shared = torch.ones(3, 1).expand(3, 2)
    with pytest.raises(ValueError, match="parameter: expected elements with memory of their own, got stride 0 along d"):
        hat_kernels.lock_update_(shared, torch.ones(3, 2), Lock(torch.zeros(3)))
    assert torch.equal(hat_kernels.lock_update_(torch.zeros(3, 2), shared, Lock(torch.zeros(3))), shared)
