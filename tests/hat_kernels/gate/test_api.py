"""The errors of the gate."""

import pytest
import torch

import hat_kernels


def call(**changes):
    arguments = {"embedding": torch.zeros(3), "scale": torch.tensor(1.0)} | changes
    return hat_kernels.gate(arguments.pop("embedding"), arguments.pop("scale"), **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_dtype(dtype):
    with pytest.raises(TypeError, match=f"embedding: expected float32, got {dtype}"):
        call(embedding=torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": torch.zeros(3, 2)}, r"embedding: expected shape \(N,\), got \(3, 2\)"),
        ({"embedding": torch.tensor(1.0)}, r"embedding: expected shape \(N,\), got \(\)"),
        ({"scale": torch.ones(1)}, r"scale: expected a 0-d tensor, got shape \(1,\)"),
        ({"scale": torch.ones((), device="meta")}, r"scale: expected device cpu, got meta"),
        ({"s_max": 0.0}, r"s_max: expected a finite number > 0, got 0\.0"),
        ({"s_max": float("nan")}, r"s_max: expected a finite number > 0, got nan"),
        ({"compensation": "some"}, r"compensation: expected one of .*'published'.*, got 'some'"),
    ],
)
def test_value(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_scale_dtype_is_that_of_the_embedding():
    """The contract: "0-d, same dtype"; a float64 scale would widen the whole chain."""
    with pytest.raises(TypeError, match=r"scale: expected .*float32.*, got .*float64"):
        call(scale=torch.tensor(1.0, dtype=torch.float64))
