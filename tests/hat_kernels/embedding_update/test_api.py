"""The errors of embedding_update_. A call that raises changes nothing."""

import pytest
import torch

import hat_kernels

ONE = torch.ones(3)


@pytest.mark.parametrize(
    ("grads", "buffers", "options", "message"),
    [
        ([], [], {}, "grads: expected 1, one an embedding, got 0"),
        ([torch.ones(2)], [], {}, r"grads\[0\]: expected \(3,\), got \(2,\)"),
        ([ONE], [], {"momentum": 0.9}, "momentum_buffers: expected 1, one an embedding, got 0"),
        ([ONE], [], {"limit": 0.0}, r"limit: expected a finite number > 0, got 0\.0"),
        ([ONE], [], {"limit": -1.0}, r"limit: expected a finite number > 0, got -1\.0"),
        ([ONE], [], {"limit": float("nan")}, "limit: expected a finite number > 0, got nan"),
    ],
)
def test_value(grads, buffers, options, message):
    embedding = torch.zeros(3)
    with pytest.raises(ValueError, match=message):
        hat_kernels.embedding_update_([embedding], grads, buffers, lr=0.1, **options)
    assert torch.equal(embedding, torch.zeros(3))
