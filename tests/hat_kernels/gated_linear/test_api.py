"""The errors of gated_linear."""

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3), None, r"weight: expected shape \(N, K\), got \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(4, 3, 1), None, r"weight: expected shape \(N, K\), got \(4, 3, 1\)"),
        (torch.zeros(2, 4), torch.zeros(5, 3), None, r"x: expected shape \(\.\.\., 3\), got \(2, 4\)"),
        (torch.tensor(1.0), torch.zeros(5, 3), None, r"x: expected shape \(\.\.\., 3\), got \(\)"),
        (torch.zeros(2, 3, device="meta"), torch.zeros(5, 3), None, "x: expected device cpu, got meta"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(3), r"bias: expected shape \(5,\), got \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(5, 1), r"bias: expected shape \(5,\), got \(5, 1\)"),
    ],
)
def test_value(x, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        hat_kernels.gated_linear(x, weight, bias)


@pytest.mark.parametrize(
    ("epilogue", "message"),
    [
        ({"gate": GateForm(mask=torch.ones(3))}, r"mask: expected shape \(5,\), got \(3,\)"),
        ({"activation": "swish"}, "activation: expected one of .*, got 'swish'"),
        ({"dropout": 2.0}, r"dropout: expected in \[0, 1\), got 2\.0"),
        ({"gate": GateForm(embedding=torch.zeros(5))}, "embedding, scale: expected both or neither"),
    ],
)
def test_epilogue(epilogue, message):
    with pytest.raises(ValueError, match=message):
        hat_kernels.gated_linear(torch.zeros(2, 3), torch.zeros(5, 3), **epilogue)


def test_dtype_of_x():
    with pytest.raises(TypeError, match="x: expected"):
        hat_kernels.gated_linear(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(5, 3))


def test_dtypes_that_differ():
    with pytest.raises((TypeError, ValueError), match=r"x: expected .*float32.*, got .*float64"):
        hat_kernels.gated_linear(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(5, 3))


def test_what_is_no_form():
    with pytest.raises(TypeError, match="gate: expected a GateForm or None, got Tensor"):
        hat_kernels.gated_linear(torch.zeros(2, 3), torch.zeros(5, 3), gate=torch.ones(5))
