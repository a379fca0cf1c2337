"""The errors of adamw_update_. A call that raises changes nothing."""

import pytest
import torch

import hat_kernels
from hat_kernels import Lock


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grads": []}, "grads: expected 1, one a parameter, got 0"),
        ({"exp_avgs": [torch.ones(2, 3)]}, r"exp_avgs\[0\]: expected \(3, 2\), got \(2, 3\)"),
        ({"exp_avg_sqs": []}, "exp_avg_sqs: expected 1, one a parameter, got 0"),
        ({"amsgrad": True}, "max_exp_avg_sqs: expected 1, one a parameter, got 0"),
        ({"steps": []}, "steps: expected 1, one a parameter, got 0"),
        ({"steps": [torch.zeros(2)]}, r"steps\[0\]: expected one element, got shape \(2,\)"),
        ({"locks": [Lock(torch.ones(2))]}, r"locks\[0\].rows: expected 3 units along dimension 0, got \(2,\)"),
        ({"betas": (0.9, 1.0)}, r"betas: expected two in \[0, 1\), got \(0\.9, 1\.0\)"),
        ({"found_inf": torch.zeros(2)}, r"found_inf: expected one element, got shape \(2,\)"),
        ({"grad_scale": torch.zeros(2)}, r"grad_scale: expected one element, got shape \(2,\)"),
    ],
)
def test_value(changes, message):
    check(changes, ValueError, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp_avgs": [torch.zeros(3, 2).half()]}, r"exp_avgs\[0\]: expected torch\.float32, got torch\.float16"),
        ({"steps": [torch.zeros(1, dtype=torch.int64)]}, r"steps\[0\]: expected torch\.float32, got torch\.int64"),
    ],
)
def test_type(changes, message):
    check(changes, TypeError, message)


def check(changes, error, message):
    arguments = {
        "parameters": [torch.zeros(3, 2)],
        "grads": [torch.ones(3, 2)],
        "exp_avgs": [torch.zeros(3, 2)],
        "exp_avg_sqs": [torch.zeros(3, 2)],
        "max_exp_avg_sqs": [],
        "steps": [torch.zeros(())],
        "locks": [None],
        "lr": 0.1,
    }
    with pytest.raises(error, match=message):
        hat_kernels.adamw_update_(**{**arguments, **changes})
    assert not arguments["parameters"][0].any()
    assert not arguments["steps"][0]
