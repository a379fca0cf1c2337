"""The errors of sgd_update_. A call that raises changes nothing."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock

ONE = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("grads", "buffers", "locks", "options", "message"),
    [
        ([], [], [None], {}, "grads: expected 1, one a parameter, got 0"),
        ([torch.ones(2, 3)], [], [None], {}, r"grads\[0\]: expected \(3, 2\), got \(2, 3\)"),
        ([ONE], [], [None], {"momentum": 0.9}, "momentum_buffers: expected 1, one a parameter, got 0"),
        ([ONE], [], [], {}, "locks: expected 1, one a parameter, got 0"),
        ([ONE], [], [Lock(torch.ones(2))], {}, r"locks\[0\].rows: expected 3 units along dimension 0, got \(2,\)"),
        ([ONE], [], [Lock()], {}, r"locks\[0\]: expected rows, columns or both, got neither"),
        (
            [ONE],
            [torch.ones(2, 3)],
            [None],
            {"momentum": 0.9},
            r"momentum_buffers\[0\]: expected \(3, 2\), got \(2, 3\)",
        ),
    ],
)
def test_value(grads, buffers, locks, options, message):
    parameter = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=message):
        hat_kernels.sgd_update_([parameter], grads, buffers, locks, lr=0.1, **options)
    assert torch.equal(parameter, torch.zeros(3, 2))
