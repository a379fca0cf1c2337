"""What every test starts from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Before anything imports hat_kernels or Triton: both ask at import whether kernels are compiled or interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if (DATA := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():  # real datasets beside the checkout
    os.environ.setdefault("HAT_DATA", str(DATA))

import hat_kernels

# No test asserts a duration, and none fails because the machine is busy.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


_LONGEST = ("test_graphs", "test_gpu", "test_on_triton", "test_zoo", "test_compiled")
"""Files that go first: the last one to begin decides when two processes are done."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="auto", help="of hat_kernels in every test (auto, reference or triton)")
    parser.addoption("--sample", type=int, default=1, help="of every test, run its first case and each N-th after it")


def pytest_configure(config: pytest.Config) -> None:
    """Not in pyproject.toml: pytest would import `hat` for these names before the line above has run."""
    for warning in ("CapacityWarning", "UnlockedWarning"):
        config.addinivalue_line("filterwarnings", f"error::hat.{warning}")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file `test_triton*.py` runs kernels."""
    for item in items:
        if item.path.name.startswith("test_triton"):
            item.add_marker(pytest.mark.kernel)
    cases: Counter[str] = Counter()
    chosen, left = [], []
    for item in items:
        test = item.nodeid.partition("[")[0]
        (left if cases[test] % config.getoption("--sample") else chosen).append(item)
        cases[test] += 1
    if left:
        config.hook.pytest_deselected(items=left)
    items[:] = sorted(chosen, key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture(autouse=True)
def same_start(request: pytest.FixtureRequest) -> Iterator[None]:
    """A known seed, no floating-point mode left over from another test, and the backend that was asked for."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)
    with hat_kernels.backend(request.config.getoption("--backend")):
        yield
    torch.set_flush_denormal(False)
