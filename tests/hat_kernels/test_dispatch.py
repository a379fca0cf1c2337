"""Which implementation of an operation runs."""

import subprocess
import sys
import threading

import pytest
import torch

import hat_kernels
from hat_kernels import Lock, dispatch
from tests.hat_kernels.device import DEVICE


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
        "adamw_update_": lambda: hat_kernels.adamw_update_(
            [one.clone()], [one], [one.clone()], [one.clone()], [], [torch.zeros(())], [None], lr=0.1
        ),
        "gradient_norm": lambda: hat_kernels.gradient_norm([one], [None]),
        "clip_factor": lambda: hat_kernels.clip_factor([one], [None], 1.0),
    }


@pytest.mark.parametrize("op", calls())
def test_reference_and_auto_run_everywhere(op):
    for name in ("auto", "reference"):
        with hat_kernels.backend(name):
            calls()[op]()


@pytest.mark.parametrize("op", calls())
def test_triton_runs_interpreted_on_a_cpu_and_is_refused_by_name_otherwise(op, monkeypatch):
    with hat_kernels.backend("triton"):
        if dispatch._INTERPRETED:
            calls()[op]()
        monkeypatch.setattr(dispatch, "_INTERPRETED", False)
        with pytest.raises(NotImplementedError, match=rf"^{op}: no Triton kernel for a tensor on cpu"):
            calls()[op]()


@pytest.mark.parametrize("op", calls())
def test_without_the_package_triton_is_refused_and_auto_is_the_reference(op, monkeypatch):
    monkeypatch.setattr(dispatch, "_INSTALLED", False)
    calls()[op]()
    with hat_kernels.backend("triton"), pytest.raises(NotImplementedError, match="without the package triton"):
        calls()[op]()


def test_use_triton():
    cpu = torch.zeros(1)
    assert not dispatch.use_triton("x", cpu)
    with hat_kernels.backend("reference"):
        assert not dispatch.use_triton("x", cpu)


@pytest.mark.kernel
def test_float64_is_for_the_reference():
    double, single = (torch.zeros(1, dtype=dtype, device=DEVICE) for dtype in (torch.float64, torch.float32))
    with hat_kernels.backend("triton"):
        assert dispatch.use_triton("x", single, None)
        with pytest.raises(NotImplementedError, match="x: no Triton kernel for float64; use backend"):
            dispatch.use_triton("x", single, None, double)
    assert not dispatch.use_triton("x", double)
    with hat_kernels.backend("triton"), pytest.raises(NotImplementedError, match="no Triton kernel for float8_e5m2"):
        dispatch.use_triton("x", single.to(torch.float8_e5m2))
    assert dispatch.use_triton("x", single) == (DEVICE == "cuda")


def test_unknown_backend():
    with (
        pytest.raises(ValueError, match=r"backend: expected one of .*'triton'.*, got 'cuda'"),
        hat_kernels.backend("cuda"),
    ):
        pass


def chosen():
    return dispatch.chosen_backend()


def test_backend_ends_with_its_block_even_after_an_error():
    with pytest.raises(KeyError), hat_kernels.backend("triton"):
        raise KeyError("inside")
    assert chosen() == "auto"


def test_backends_nest():
    with hat_kernels.backend("triton"):
        with hat_kernels.backend("reference"):
            assert chosen() == "reference"
        assert chosen() == "triton"
    assert chosen() == "auto"


def test_a_thread_without_a_choice_takes_that_of_another():
    """The backward pass of a GPU runs in threads of its own."""
    backends = []
    with hat_kernels.backend("triton"):
        thread = threading.Thread(target=lambda: backends.append(chosen()))
        thread.start()
        thread.join()
    assert backends == ["triton"]


def test_blocks_of_two_threads_that_overlap():
    steps, seen = [threading.Event() for _ in range(3)], {}

    def first():
        with hat_kernels.backend("reference"):
            steps[0].set()
            steps[1].wait()
            seen["first"] = chosen()
        steps[2].set()

    def second():
        steps[0].wait()
        with hat_kernels.backend("compiled"):
            steps[1].set()
            steps[2].wait()
            seen["second"] = chosen()

    threads = [threading.Thread(target=run) for run in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": "reference", "second": "compiled"}
    assert chosen() == "auto"


def test_the_choice_is_traced():
    def which(x):
        return x + 1 if dispatch.use_triton("x", x) else x - 1

    with hat_kernels.backend("reference"):
        compiled = torch.compile(which, fullgraph=True, backend="eager")
        assert compiled(torch.zeros(1)) == -1


def test_the_library_is_imported_without_triton():
    code = "import sys, hat, hat_kernels; assert not [m for m in sys.modules if m.split('.')[0] == 'triton']"
    subprocess.run([sys.executable, "-c", code], check=True)
