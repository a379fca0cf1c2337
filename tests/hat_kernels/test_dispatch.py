"""Which implementation runs."""

import contextvars

import pytest
import torch

import hat_kernels
from hat_kernels import Lock


def calls():
    one, scale = torch.zeros(2), torch.tensor(1.0)
    lock = Lock(rows=torch.ones(2))
    return {
        "gate": lambda: hat_kernels.gate(one, scale),
        "gated_activation": lambda: hat_kernels.gated_activation(one),
        "gated_linear": lambda: hat_kernels.gated_linear(one, torch.zeros(3, 2)),
        "lock_gradient_": lambda: hat_kernels.lock_gradient_(one.clone(), lock),
        "lock_update_": lambda: hat_kernels.lock_update_(one.clone(), one, lock),
        "sgd_update_": lambda: hat_kernels.sgd_update_([one.clone()], [one], [], [None], lr=0.1),
        "embedding_update_": lambda: hat_kernels.embedding_update_([one.clone()], [one], [], lr=0.1),
        "gradient_norm": lambda: hat_kernels.gradient_norm([one], [None]),
    }


@pytest.mark.parametrize("op", calls())
def test_reference_and_auto_run_everywhere(op):
    for name in ("auto", "reference"):
        with hat_kernels.backend(name):
            calls()[op]()


@pytest.mark.parametrize("op", calls())
def test_triton_runs_or_is_refused_by_name(op):
    """CPU tensors have no kernel: the operation says so, by its name, instead of running something else."""
    with hat_kernels.backend("triton"), pytest.raises((NotImplementedError, ValueError), match=op):
        calls()[op]()


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match=r"backend: expected one of .*'triton'.*, got 'cuda'"),
        hat_kernels.backend("cuda"),
    ):
        pass


def test_backend_ends_with_its_block_even_after_an_error():
    def fail():
        with hat_kernels.backend("triton"):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    hat_kernels.gate(torch.zeros(2), torch.tensor(1.0))


def test_backends_nest():
    gate = calls()["gate"]
    with hat_kernels.backend("triton"):
        with hat_kernels.backend("reference"):
            gate()
        with pytest.raises((NotImplementedError, ValueError)):
            gate()


def test_backend_is_of_one_context():
    with hat_kernels.backend("triton"):
        contextvars.Context().run(calls()["gate"])
