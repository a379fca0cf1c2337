"""The errors of gated_activation."""

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm

E = {"embedding": torch.zeros(3), "scale": torch.tensor(1.0)}
T = {"mask": torch.ones(4, 3), "task": torch.zeros(2, dtype=torch.int64)}


def call(bias=None, activation="relu", dropout=0.0, unit_dim=-1, **form):
    gate = GateForm(**form) if form else None
    options = {"activation": activation, "dropout": dropout, "unit_dim": unit_dim}
    return hat_kernels.gated_activation(torch.zeros(2, 3), bias, gate=gate, **options)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_x_dtype(dtype):
    with pytest.raises(TypeError, match=f"x: expected a floating dtype, got {dtype}"):
        hat_kernels.gated_activation(torch.zeros(2, 3, dtype=dtype))


def test_embedding_dtype():
    with pytest.raises(TypeError, match=r"embedding: expected float32, got torch\.float16"):
        call(embedding=torch.zeros(3).half(), scale=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "swish"}, r"activation: expected one of \[.*'relu'.*\], got 'swish'"),
        ({"dropout": 1.0}, r"dropout: expected in \[0, 1\), got 1\.0"),
        ({"dropout": -0.1}, r"dropout: expected in \[0, 1\), got -0\.1"),
        ({"dropout": float("nan")}, r"dropout: expected in \[0, 1\), got nan"),
        ({"unit_dim": 2}, r"unit_dim: expected a dimension of x \(2, 3\), got 2"),
        ({"unit_dim": -3}, r"unit_dim: expected a dimension of x \(2, 3\), got -3"),
        ({"bias": torch.zeros(2)}, r"bias: expected shape \(3,\), got \(2,\)"),
        ({"bias": torch.zeros(1, 3)}, r"bias: expected shape \(3,\), got \(1, 3\)"),
        ({"bias": torch.zeros(3, device="meta")}, "bias: expected device cpu, got meta"),
        ({"embedding": torch.zeros(3)}, "embedding, scale: expected both or neither"),
        ({"scale": torch.tensor(1.0)}, "embedding, scale: expected both or neither"),
        ({**E, "mask": torch.ones(3)}, "embedding, mask: expected one form of gate, got two"),
        ({**E, "embedding": torch.zeros(4)}, r"embedding: expected shape \(3,\), got \(4,\)"),
        ({**E, "scale": torch.ones(3)}, r"scale: expected a 0-d tensor, got shape \(3,\)"),
        ({**E, "compensation": "all"}, "compensation: expected one of .*, got 'all'"),
        ({**E, "s_max": -1.0}, r"s_max: expected a finite number > 0, got -1\.0"),
        ({"mask": torch.ones(2)}, r"mask: expected shape \(3,\), got \(2,\)"),
        ({"mask": torch.ones(2, 3)}, r"mask: expected shape \(3,\), got \(2, 3\)"),
        ({"mask": torch.ones(3, device="meta")}, "mask: expected device cpu, got meta"),
        ({"task": T["task"]}, r"mask: expected shape \(T, 3\) beside a task per sample, got None"),
        ({**T, "mask": torch.ones(4, 2)}, r"mask: expected shape \(T, 3\) beside a task per sample, got \(4, 2\)"),
        ({**T, "mask": torch.ones(3)}, r"mask: expected shape \(T, 3\) beside a task per sample, got \(3,\)"),
        (
            {**T, "task": torch.zeros(3, dtype=torch.int64)},
            r"task: expected int64 of shape \(2,\), got torch.int64 \(3,\)",
        ),
        ({**T, "task": torch.zeros(2)}, r"task: expected int64 of shape \(2,\), got torch.float32 \(2,\)"),
        (
            {**T, "task": torch.zeros((), dtype=torch.int64)},
            r"task: expected int64 of shape \(2,\), got torch.int64 \(\)",
        ),
        ({**E, "task": T["task"]}, r"mask: expected shape \(T, 3\) beside a task per sample, got None"),
    ],
)
def test_value(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_a_form_of_nothing():
    with pytest.raises(ValueError, match="gate: expected embedding and scale, or a mask, got neither"):
        hat_kernels.gated_activation(torch.zeros(2, 3), gate=GateForm())


@pytest.mark.parametrize("gate", [torch.ones(3), {"mask": torch.ones(3)}, (None,) * 6])
def test_what_is_no_form(gate):
    with pytest.raises(TypeError, match=f"gate: expected a GateForm or None, got {type(gate).__name__}"):
        hat_kernels.gated_activation(torch.zeros(2, 3), gate=gate)


@pytest.mark.parametrize("unit_dim", [0, -2])
def test_units_may_not_be_the_batch_beside_a_task_per_sample(unit_dim):
    with pytest.raises(
        ValueError, match="unit_dim: expected not the batch dimension 0 beside a task per sample, got 0"
    ):
        call(unit_dim=unit_dim, mask=torch.ones(4, 2), task=T["task"])


@pytest.mark.parametrize("task", [[0, 4], [-1, 0], [0, -4]])
def test_task_out_of_range(task):
    """The contract allows 0..T-1. A negative id must not count from the end and give the mask of another task."""
    with pytest.raises((ValueError, IndexError)):
        call(mask=torch.ones(4, 3), task=torch.tensor(task))


def test_x_of_no_dimensions():
    with pytest.raises(ValueError, match="unit_dim"):
        hat_kernels.gated_activation(torch.tensor(1.0))
