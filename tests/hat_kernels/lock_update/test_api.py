"""What lock_update_ refuses."""

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
