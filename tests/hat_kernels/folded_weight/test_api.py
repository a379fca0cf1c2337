"""Every documented error of folded_weight."""

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm

WEIGHT, BIAS = torch.zeros(3, 2), torch.zeros(3)


def call(weight=WEIGHT, bias=BIAS, dtype=None, **form):
    gate = GateForm(embedding=torch.zeros(3), scale=torch.tensor(1.0))._replace(**form)
    return hat_kernels.folded_weight(weight, bias, gate=gate, dtype=dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(3, 2, dtype=torch.int64)}, r"weight: expected a floating dtype, got torch\.int64"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, r"bias: expected a floating dtype, got torch\.int64"),
        ({"embedding": torch.zeros(3).half()}, r"embedding: expected float32, got torch\.float16"),
        ({"scale": torch.ones((), dtype=torch.float64)}, r"scale: expected torch\.float32, got torch\.float64"),
        ({"dtype": torch.float16}, r"dtype: expected float32, bfloat16 or float64, got torch\.float16"),
        ({"weight": torch.zeros(3, 2).half()}, r"dtype: expected float32, bfloat16 or float64, got torch\.float16"),
        ({"dtype": torch.int32}, r"dtype: expected .*, got torch\.int32"),
    ],
)
def test_dtype(changes, message):
    with pytest.raises(TypeError, match=message):
        call(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.tensor(1.0)}, r"weight: expected 1 to 5 dimensions, got \(\)"),
        ({"weight": torch.zeros(3, 1, 1, 1, 1, 1)}, r"weight: expected 1 to 5 dimensions, got \(3, 1, 1, 1, 1, 1\)"),
        ({"bias": torch.zeros(2)}, r"bias: expected shape \(3,\), got \(2,\)"),
        ({"bias": torch.zeros(3, 1)}, r"bias: expected shape \(3,\), got \(3, 1\)"),
        ({"embedding": torch.zeros(4)}, r"embedding: expected shape \(3,\), got \(4,\)"),
        ({"bias": torch.zeros(3, device="meta")}, r"bias: expected device cpu, got meta"),
        (
            {"embedding": torch.zeros(3, device="meta"), "scale": torch.ones((), device="meta")},
            r"embedding: expected device cpu, got meta",
        ),
        ({"scale": torch.ones(1)}, r"scale: expected a 0-d tensor, got shape \(1,\)"),
        ({"embedding": None, "scale": None, "mask": torch.ones(3)}, "gate: expected embedding and scale, got a mask"),
        ({"s_max": 0.0}, r"s_max: expected a finite number > 0, got 0\.0"),
        ({"compensation": "some"}, r"compensation: expected one of .*'published'.*, got 'some'"),
    ],
)
def test_value(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_a_float16_weight_may_become_bfloat16():
    folded, bias = call(weight=torch.ones(3, 2).half(), dtype=torch.bfloat16)
    assert folded.dtype == bias.dtype == torch.bfloat16


def test_without_a_bias_there_is_none():
    assert call(bias=None)[1] is None


@pytest.mark.parametrize("gate", [None, torch.zeros(3)])
def test_what_is_no_form(gate):
    with pytest.raises(TypeError, match=f"gate: expected a GateForm, got {type(gate).__name__}"):
        hat_kernels.folded_weight(WEIGHT, BIAS, gate=gate)
