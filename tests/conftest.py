"""Setup for every test: environment variables, options of pytest, the order of the files, and a fixed seed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# These lines come before the imports of hat_kernels and Triton, which read the variables when they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell that starts a job in the background lets it ignore Ctrl-C, and Python takes that over.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if (DATA := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():  # real datasets next to the checkout
    os.environ.setdefault("HAT_DATA", str(DATA))

import hat_kernels

# No deadline: no test fails because the machine is busy.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


_LONGEST = ("test_graphs", "test_gpu", "test_on_triton", "test_zoo", "test_compiled")
"""The slowest test files. They run first, so that no process still runs a slow file when the others are done."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="auto", help="backend of hat_kernels: auto, reference or triton")
    parser.addoption("--sample", type=int, default=1, help="run the first case of every test and every N-th after it")


def pytest_configure(config: pytest.Config) -> None:
    """Turn warnings of `hat` into errors.

    The filters are not in pyproject.toml, because pytest would import `hat` for them before `TRITON_INTERPRET` is set.
    """
    for warning in ("CapacityWarning", "TrainingOnlyWarning", "UnlockedWarning"):
        config.addinivalue_line("filterwarnings", f"error::hat.{warning}")


@pytest.hookimpl(tryfirst=True)  # the mark `kernel` must be there before `-m kernel` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests in `test_triton*.py` as `kernel`, leave out cases as `--sample` says, and put slow files first."""
    for item in items:
        if item.path.name.startswith("test_triton"):
            item.add_marker(pytest.mark.kernel)
    cases: Counter[str] = Counter()
    chosen, left_out = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (left_out if cases[test] % config.getoption("--sample") else chosen).append(item)
        cases[test] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = sorted(chosen, key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture(autouse=True)
def same_start(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start every test with seed 0, without flush mode, and with the backend that `--backend` names."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)
    with hat_kernels.backend(request.config.getoption("--backend")):
        yield
    torch.set_flush_denormal(False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For networks so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
